"""qo-search as a process, on an index made for it."""

from pathlib import Path

from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.bench.speed.search.process import make_index, measure_process
from queryopt.runtime import HashIndex


def test_the_index_is_a_real_one(tmp_path: Path) -> None:
    spec = DataSpec("clustered", 12, 300, queries=1, classes=4)
    picture = make_index(tmp_path, spec)
    codes = make_data(spec).codes
    with HashIndex.open(tmp_path / "photos.db") as index:
        assert index.verify().ok
        assert [image.code.tobytes() for image in index] == [code.tobytes() for code in codes]
        found = index.find(str(picture))
        assert found is not None
        assert found.id == 1


def test_processes() -> None:
    timing = measure_process(DataSpec("clustered", 12, 300, queries=1), k=7, rounds=2)
    assert (timing["n"], timing["bits"], timing["hits"]) == (300, 12, 7)
    assert len(timing["seconds"]) == len(timing["cpu"]) == len(timing["baseline"]) == 2
    assert min(timing["cpu"]) > 0
    assert timing["median"] == sum(timing["seconds"]) / 2
