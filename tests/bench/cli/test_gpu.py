import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from queryopt.bench.cli.bench import main
from queryopt.runtime.cuda import choose
from queryopt.runtime.cuda.emulated import EmulatedRuntime

NAMES = [("--peers", "torhc"), ("--sections", "serach")]


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["gpu", *(str(argument) for argument in arguments)])


def test_table_and_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sizes = ("--n", "1e3", "--bits", 32, "--batches", "1,3", "--radius", 2, "--rounds", 1)
    options = ("--runtime", "emulation", "--peers", "faiss", *sizes)
    done = run(*options)
    assert done.exit_code == 0, done.output
    assert "emulation (" in done.output
    assert done.output.count("ordered") == 4
    assert re.search(r"faiss +all searches +(FAISS .* here is one for the CPU|FAISS .* sees no GPU)", done.output)
    printed = json.loads(run(*options, "--json").stdout)
    assert printed["left_out"] == {}
    report = printed["sections"]["search"]
    assert [one["searcher"] for one in report["left_out"]] == ["faiss"]
    assert [(row["queries"], row["k"], row["radius"]) for row in report["rows"]] == [
        (1, 10, None),
        (1, None, 2),
        (3, 10, None),
        (3, None, 2),
    ]
    assert all(row["right"] and row["median"] > 0 for row in report["rows"])


def test_an_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = Path(__file__).parents[2] / "data" / "v1" / "model.plan"  # the emulation runs the model.onnx of that name
    options = ("--runtime", "emulation", "--n", "100", "--bits", 8, "--batches", 1, "--rounds", 1, "--engine", model)
    done = run(*options, "--engine-batches", "1,4")
    assert done.exit_code == 0, done.output
    assert "as if on a GPU: emulation (" in done.output
    assert "gain of overlap" in done.output
    assert run(*options, "--engine-batches", "257").exit_code == 2


@pytest.mark.parametrize(
    "options", [("--n", "many"), ("--batches", "0"), ("--runtime", "opencl"), ("--bits", "65"), *NAMES]
)
def test_wrong_usage(options: tuple[str, str]) -> None:
    done = run(*options)
    assert done.exit_code == 2
    assert options[1] in done.output


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_installed", lambda name: False)
    done = run("--n", "100", "--bits", "8")
    assert done.exit_code == 4
    assert "pip install '.[gpu]'" in done.output


def test_help_does_not_start_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmulatedRuntime, "__init__", None)
    done = run("--help")
    assert done.exit_code == 0
    assert "qo-bench gpu --n 1e8" in done.output
