"""Cosines between class codes, and the Welch bound."""

from pathlib import Path

import numpy as np
import pytest

from queryopt.bench.quality.welch import class_means, coherence, distinct_codes, solved_class_codes, welch_bound
from queryopt.errors import CheckpointError, MismatchError, UsageError
from queryopt.train import preset_config, train
from queryopt.train.sources import load_data


@pytest.mark.parametrize(
    ("classes", "dimensions", "bound"),
    [(200, 12, 0.281), (200, 24, 0.192), (200, 48, 0.126), (200, 96, 0.074), (12, 12, 0.0), (5, 96, 0.0), (2, 1, 1.0)],
)
def test_the_bound(classes: int, dimensions: int, bound: float) -> None:
    assert welch_bound(classes, dimensions) == pytest.approx(bound, abs=5e-4)


def test_a_tight_frame_reaches_it() -> None:
    # Three vectors at 120 degrees: the one arrangement in the plane whose largest cosine is the bound.
    angles = np.array([0, 2, 4]) * np.pi / 3
    found = coherence(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert found.largest == pytest.approx(0.5)
    assert found.rms == pytest.approx(found.bound)


def test_random_codes_stay_above_it_and_lengths_do_not_matter() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 8))
    found = coherence(vectors)
    assert found.bound < found.rms < found.largest <= 1
    scaled = coherence(vectors * np.linspace(0.1, 9, 50)[:, None])
    assert scaled.rms == pytest.approx(found.rms)


def test_a_shared_code_has_cosine_one_opposite_codes_too_and_zeros_have_none() -> None:
    assert coherence([[1, -1, 1], [1, -1, 1], [1, 1, 0]]).largest == pytest.approx(1)
    assert coherence([[1, -1], [-1, 1]]).largest == pytest.approx(1)
    assert coherence([[0, 0], [1, 1]]).largest == 0


def test_one_class_has_no_cosines() -> None:
    with pytest.raises(UsageError, match="two classes"):
        coherence([[1, 1]])
    with pytest.raises(UsageError, match="at least one of each"):
        welch_bound(0, 12)


def test_class_means_and_distinct_codes() -> None:
    values = np.array([[1, -1], [1, 1], [-1, -1], [-1, 1]])
    means = class_means(values, np.array([4, 4, 1, 4]))
    assert means.tolist() == [[-1, -1], [1 / 3, 1 / 3]]
    assert distinct_codes(means) == 2
    assert distinct_codes(np.array([[0.2, -1], [0, -3], [-1, 1]])) == 2


def test_solved_codes_belong_to_the_pictures_of_their_run(tmp_path: Path) -> None:
    data = f"synthetic:birds?classes=4&train=4&test=0&size=32&folder={tmp_path / 'birds'}"
    config = preset_config("tiny", bits=4, samples=16, iterations=1, hold=1, data=data, validation_fraction=0.0)
    images = load_data(data).train
    train(config, None, tmp_path / "run")
    codes = solved_class_codes(tmp_path / "run", images)
    assert codes.values.shape == (4, 4 * config.network.branches)
    assert distinct_codes(codes.values[:, :4]) == 4  # as they started: the solver was held
    with pytest.raises(MismatchError, match="training pictures are not those"):
        solved_class_codes(tmp_path / "run", images.subset([0, 1, 2]))
    (tmp_path / "run" / "last.pt").unlink()
    with pytest.raises(CheckpointError, match="--codes network"):
        solved_class_codes(tmp_path / "run", images)
