import threading
import time

import numpy as np
import pytest

from queryopt.errors import ModelError
from queryopt.images import load_image
from queryopt.runtime import Hasher
from queryopt.runtime.serve.errors import BusyError
from queryopt.runtime.serve.worker import ModelWorker


@pytest.fixture
def pixels(frozen_pictures, explained_model):
    with Hasher(explained_model, threads=1) as hasher:
        preprocessing = hasher.card.preprocessing
    return np.stack([load_image(path, preprocessing) for path in sorted(frozen_pictures.glob("*/*"))])


@pytest.fixture
def make_worker(explained_model):
    made = []

    def make(**settings):
        worker = ModelWorker(Hasher(explained_model, threads=1), **settings)
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.close()


def hold(worker):
    """Let the worker wait in its next run until what is returned is set."""
    started, go_on = threading.Event(), threading.Event()
    run = worker.hasher.hash_pixels

    def held(pixels):
        started.set()
        go_on.wait(10)
        worker.hasher.hash_pixels = run
        return run(pixels)

    worker.hasher.hash_pixels = held
    return started, go_on


def test_what_waits_together_is_one_run(make_worker, pixels):
    runs = []
    worker = make_worker(observe=lambda count, seconds: runs.append(count))
    started, go_on = hold(worker)
    first = worker.submit(pixels[0])
    started.wait(10)
    others = [worker.submit(one) for one in pixels[1:]]
    assert worker.waiting == 7
    go_on.set()
    got = [future.result(10) for future in (first, *others)]
    assert runs == [1, 7]
    with Hasher(worker.hasher.model_path, threads=1) as hasher:
        expected = hasher.hash_pixels(pixels)
    np.testing.assert_array_equal([one.code for one in got], expected.codes)
    np.testing.assert_allclose([one.logits for one in got], expected.logits, atol=1e-4)


def test_a_run_waits_for_pictures_on_their_way_and_else_starts_at_once(make_worker, pixels):
    runs = []
    worker = make_worker(wait_ms=10_000, batch=2, observe=lambda count, seconds: runs.append(count))
    worker.submit(pixels[0]).result(5)
    with worker.expecting():
        first = worker.submit(pixels[0])
        time.sleep(0.05)
        second = worker.submit(pixels[1])
        first.result(5)
        second.result(5)
    assert runs == [1, 2]


def test_more_than_fit_are_refused(make_worker, pixels):
    worker = make_worker(depth=2)
    started, go_on = hold(worker)
    kept = [worker.submit(pixels[0])]
    started.wait(10)
    kept += [worker.submit(pixels[0]) for _ in range(2)]
    with pytest.raises(BusyError, match="try again"):
        worker.submit(pixels[0])
    go_on.set()
    assert all(len(future.result(10).code) for future in kept)


def test_closing_does_what_was_submitted(make_worker, pixels):
    worker = make_worker()
    futures = [worker.submit(one) for one in pixels]
    worker.close()
    assert all(future.done() for future in futures)
    assert futures[0].result().maps is None
    with pytest.raises(BusyError, match="stopping"):
        worker.submit(pixels[0])
    worker.close()


def test_an_error_of_a_run_is_that_of_its_pictures_alone(make_worker, pixels):
    worker = make_worker()
    run = worker.hasher.hash_pixels

    def fails(pixels):
        worker.hasher.hash_pixels = run
        raise ModelError("no memory")

    worker.hasher.hash_pixels = fails
    with pytest.raises(ModelError, match="no memory"):
        worker.submit(pixels[0]).result(10)
    assert len(worker.submit(pixels[0]).result(10).code)


def test_maps_come_for_those_who_ask(make_worker, pixels):
    worker = make_worker()
    started, go_on = hold(worker)
    worker.submit(pixels[0])
    started.wait(10)
    plain, explained = worker.submit(pixels[0]), worker.submit(pixels[1], explain=True)
    go_on.set()
    assert plain.result(10).maps is None
    assert explained.result(10).maps.shape == (12, 4, 4)
