import subprocess
import sys

import numpy as np
import pytest

from queryopt.errors import UsageError
from queryopt.train.draws import Stream, epoch_batches, epoch_order, iteration_samples, sample_rng


def test_every_part_of_a_draws_name_changes_it():
    base = (0, 0, 0, 0, 0)
    names = [base] + [tuple(v + 1 if i == k else v for i, v in enumerate(base)) for k in range(5)]
    names += [(1, 0, 0, 0, 1), (0, 1, 1, 0, 0), (2**64 - 1,) * 5]
    draws = [tuple(sample_rng(*name).random(4)) for name in names]
    assert len(set(draws)) == len(names)
    assert draws[0] == tuple(sample_rng(*base).random(4))


@pytest.mark.parametrize("name", [(-1, 0, 0, 0), (0, 0, 0, 2**64)])
def test_a_draws_name_out_of_range_is_refused(name):
    with pytest.raises(UsageError, match="each must be 0 to"):
        sample_rng(*name)


def test_a_seed_means_the_same_in_every_version():
    # Other values here would draw other pictures, splits and views in runs that are resumed after an upgrade.
    assert sample_rng(42, 1, 2, 3).integers(0, 1000, 4).tolist() == [278, 463, 950, 782]
    assert {stream.name: stream.value for stream in Stream} == {
        "VIEWS": 0,
        "SAMPLES": 2,
        "ORDER": 3,
        "CODES": 4,
        "GALLERY": 5,
        "KEPT_VIEWS": 6,
        "VALIDATION": 16,
        "BIRD_CLASSES": 17,
        "BIRD_PICTURES": 18,
        "OPEN_SET": 19,
    }


def test_an_iteration_draws_other_pictures_each_none_twice():
    drawn = [iteration_samples(seed, outer, 50, 30) for seed, outer in ((0, 0), (0, 1), (1, 0))]
    for one in drawn:
        assert one.dtype == np.int64
        assert len(set(one.tolist())) == 30
        assert set(one.tolist()) <= set(range(50))
    assert len({tuple(sorted(one)) for one in drawn}) == 3
    counts = np.bincount(np.concatenate([iteration_samples(0, outer, 50, 30) for outer in range(200)]), minlength=50)
    assert 80 < counts.min() <= counts.max() < 160  # 120 of 200 each: none is preferred
    assert sorted(iteration_samples(0, 0, 5, 5)) == [0, 1, 2, 3, 4]


def test_every_epoch_has_an_order_of_its_own():
    orders = [epoch_order(0, outer, inner, 20) for outer in range(3) for inner in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9
    assert tuple(epoch_order(0, 2, 2, 20)) == tuple(orders[-1])


@pytest.mark.parametrize(
    ("samples", "batch", "sizes"),
    [
        (32, 16, [16, 16]),
        (34, 16, [16, 16, 2]),
        (33, 16, [16, 17]),
        (3, 16, [3]),
        (17, 16, [17]),
        (1, 16, [1]),
        (3, 1, [1, 2]),
    ],
)
def test_batches_hold_every_picture_once_and_none_is_alone_at_the_end(samples, batch, sizes):
    batches = epoch_batches(samples, batch)
    assert [len(b) for b in batches] == sizes
    assert [i for b in batches for i in b] == list(range(samples))


def test_draws_are_equal_in_another_process():
    code = "from queryopt.train.draws import iteration_samples; print(iteration_samples(7, 1, 100, 9).tolist())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(iteration_samples(7, 1, 100, 9).tolist())
