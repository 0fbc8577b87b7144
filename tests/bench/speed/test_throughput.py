import json
import os
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table

from queryopt.bench.machine import Report, take_head
from queryopt.bench.speed.harness import Timing
from queryopt.bench.speed.throughput import PICTURE_SIZES, Settings, make_pictures, make_report, measure
from queryopt.errors import InputError, ModelError, UsageError

MODEL = Path(__file__).parents[2] / "data" / "v1" / "model.onnx"


def names_of_rows(report: Report) -> list[str]:
    (table,) = (part for part in report.render() if isinstance(part, Table))
    return [str(cell) for cell in table.columns[0].cells]


def test_measure(tmp_path: Path) -> None:
    paths: list[Path] = make_pictures(tmp_path, 5)
    (tmp_path / "bad.jpg").touch()
    ticks: list[int] = []

    def tick(count: int = 1, note: str | None = None) -> None:
        ticks.append(count)

    pictures = [*paths, tmp_path / "bad.jpg"]
    report = measure(MODEL, pictures, Settings(threads=1, batch=2, rounds=3), progress=tick)
    values = json.loads(json.dumps(report.to_dict()))
    assert [values[name] for name in ("pictures", "threads", "batch", "bits", "image_size")] == [5, 1, 2, 12, 32]
    assert ticks == [1, 1, 1]
    assert values["megabytes"] == pytest.approx(sum(os.stat(p).st_size for p in paths) / 5e6)
    assert values["machine"]
    rounds = values["rounds"]
    assert len(rounds) == 3
    assert [one["copy"] for one in rounds] == [None] * 3
    # Medians of the rounds, not of something else.
    names = {"model": "model_alone", "decode": "decode_alone", "write": "write_alone"}
    for way in ("end_to_end", "model", "decode", "write", "ratio"):
        assert values[names.get(way, way)] == sorted(one[way] for one in rounds)[1]
    for one in rounds:
        assert one["ratio"] == one["end_to_end"] / one["model"]
    assert [values["gain"], values["obvious"], *(one["gain"] for one in rounds)] == [None] * 5
    assert not any("DataLoader" in name for name in names_of_rows(report))


def test_rates_of_every_way() -> None:
    taken = {"end_to_end": [2.0, 4.0, 1.0], "model": [1.0, 1.0, 1.0], "obvious": [10.0, 10.0, 10.0]}
    timings = {way: Timing([[s] for s in seconds], [[s] for s in seconds]) for way, seconds in taken.items()}
    facts = {"backbone": "tiny", "bits": 12, "image_size": 32, "precision": "fp32", "backend": "none", "megabytes": 1}
    report = make_report(take_head(None), facts | {"pictures": 5, "threads": 1, "batch": 2}, timings)
    values = report.to_dict()
    assert [one["end_to_end"] for one in values["rounds"]] == [2.5, 1.25, 5]
    assert [values[name] for name in ("end_to_end", "model_alone", "obvious", "decode_alone")] == [2.5, 5, 0.5, None]
    assert (values["ratio"], values["gain"]) == (0.5, 5)
    assert names_of_rows(report)[-1] == "files to codes / DataLoader + eager"


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").touch()
    with pytest.raises(InputError, match="no picture of 1 can be read"):
        measure(MODEL, [tmp_path / "bad.jpg"], Settings())
    with pytest.raises(UsageError, match="rounds"):
        measure(MODEL, [tmp_path / "bad.jpg"], Settings(rounds=0))
    with pytest.raises(ModelError, match="no such model"):
        measure(tmp_path / "none.onnx", [tmp_path / "bad.jpg"], Settings())


def test_pictures(tmp_path: Path) -> None:
    paths = make_pictures(tmp_path, 5)
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "JPEG"
            sizes.append(image.size)
    assert sizes == [*PICTURE_SIZES, PICTURE_SIZES[0]]
    assert all(20_000 < path.stat().st_size < 100_000 for path in paths)
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == 5
    (tmp_path / "again").mkdir()
    assert [path.read_bytes() for path in make_pictures(tmp_path / "again", 5)] == contents
