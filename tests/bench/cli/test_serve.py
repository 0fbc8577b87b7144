import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from queryopt.bench.cli.bench import main
from queryopt.bench.speed.serve_load import generate_index
from queryopt.runtime import Hasher, HashIndex

DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "v1" / "model.onnx"


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["serve", *(str(argument) for argument in arguments)])


def test_a_load_is_answered_and_counted() -> None:
    done = run("--model", MODEL, "--images", "2e3", "--seconds", 0.3, "--clients", "1,3", "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["images"], report["bits"], report["threads"]) == (2000, 12, 1)
    rows = report["rows"]
    assert [(row["kind"], row["clients"]) for row in rows] == [
        (kind, clients) for kind in ("code", "page", "upload") for clients in (1, 3)
    ]
    for row in rows:
        assert row["requests"] > 0
        assert (row["refused"], row["failed"]) == (0, 0)
        percentiles = [row["p50_ms"], row["p95_ms"], row["p99_ms"]]
        assert all(map(math.isfinite, percentiles))
        assert percentiles == sorted(percentiles)
        assert row["per_second"] == pytest.approx(row["requests"] / row["seconds"])
        # Only uploads go through the model, each in a run of one picture or more.
        assert (row["model_ms"] is not None) == (row["kind"] == "upload")
        assert row["pictures_a_run"] is None or 1 <= row["pictures_a_run"] <= row["clients"]


def test_an_index_of_ones_own_as_a_table(tmp_path: Path) -> None:
    with Hasher(MODEL, threads=1) as hasher:
        generate_index(tmp_path / "own.db", hasher.card, 30)
    done = run("--model", MODEL, "--index", tmp_path / "own.db", "--seconds", 0.1, "--clients", 1, "--kinds", "code")
    assert done.exit_code == 0, done.output
    assert "30 pictures, 12 bits" in done.stdout
    assert "code" in done.stdout
    assert "upload" not in done.stdout


def test_a_generated_index_is_whole_and_clusters(tmp_path: Path) -> None:
    with Hasher(MODEL, threads=1) as hasher:
        generate_index(tmp_path / "g.db", hasher.card, 5000, seed=3)
        generate_index(tmp_path / "again.db", hasher.card, 5000, seed=3)
    with HashIndex.open(tmp_path / "g.db", readonly=True) as index:
        assert len(index) == 5000
        assert index.verify().ok
        codes = index.codes()[1]
        labels = [image.label for image in index.page(0, 400)]
        distances = np.bitwise_count(codes[:400, None] ^ codes[None, :400]).sum(axis=2)
        same = np.array(labels)[:, None] == np.array(labels)
        assert distances[same].mean() < distances[~same].mean() - 1
    with HashIndex.open(tmp_path / "again.db", readonly=True) as again:
        np.testing.assert_array_equal(again.codes()[1], codes)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--kinds", "codes"], 2, "did you mean code?"),
        (["--images", "many"], 2, "such as 1e6"),
        (["--images", "inf"], 2, "such as 1e6"),
        (["--clients", "some"], 2, "1,8,32"),
        (["--clients", ","], 2, "at least one"),
        (["--seconds", "61"], 2, "not a number from 0.1 to 60"),
        (["--index", "nothing.db"], 4, "did not start"),
    ],
)
def test_wrong_usage(arguments: list[str], code: int, words: str) -> None:
    done = run("--model", MODEL, *arguments)
    assert (done.exit_code, words in done.output) == (code, True), done.output
