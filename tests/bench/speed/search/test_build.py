"""Builds in processes of their own."""

from pathlib import Path

import numpy as np
import pytest

from queryopt.bench.speed.search.build import Build, measure_build
from queryopt.bench.speed.search.contender import UnavailableError
from queryopt.bench.speed.search.data import DataSpec


def test_memory_is_that_of_the_build() -> None:
    build = measure_build("numpy", DataSpec("uniform", 64, 4_000_000, queries=1), repeats=1)
    assert (build.searcher, build.bits, build.n, build.result) == ("numpy", 64, 4_000_000, 32_000_000)
    assert build.result is not None
    assert build.peak is not None
    assert build.held is not None
    # The words alone: neither the codes, which were there before, nor the interpreter.
    assert 31e6 < build.held < 40e6
    assert build.held <= build.peak < 60e6
    assert build.peak_ratio == build.peak / build.result
    assert build.to_dict()["peak_ratio"] == build.peak_ratio


def test_ours_and_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", np.arange(300, dtype=np.uint64))
    build = measure_build("queryopt:scan", DataSpec(str(tmp_path / "codes.npy"), 16, 100), repeats=2)
    assert (build.searcher, build.bits, build.n) == ("queryopt scan", 16, 100)
    assert build.fewest <= build.seconds


def test_what_is_not_told() -> None:
    assert Build("usearch", 48, 10, 1.0, 1.0, result=None, peak=None, held=None).peak_ratio is None


def test_a_failing_process_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no such file"):
        measure_build("numpy", DataSpec(str(tmp_path / "none.npy"), 16, None), repeats=1)
