import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from queryopt.bench.cli.bench import main

DATA = Path(__file__).parents[2] / "data"
MODEL = DATA / "v1" / "model.onnx"


def run(*arguments: Any) -> Result:
    """Without the DataLoader, whose worker process imports torch."""
    peers = () if "--peers" in arguments else ("--peers", "none")
    return CliRunner().invoke(main, ["throughput", *(str(argument) for argument in (*arguments, *peers))])


def test_a_folder_and_a_model() -> None:
    done = run(DATA / "pictures", "--model", MODEL, "--rounds", 2, "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert (values["pictures"], values["threads"], len(values["rounds"])) == (8, 1, 2)
    assert values["ratio"] > 0
    assert (
        json.loads(run(DATA / "pictures", "--model", MODEL, "--rounds", 1, "--images", 3, "--json").stdout)["pictures"]
        == 3
    )


def test_table() -> None:
    done = run(DATA / "pictures", "--model", MODEL, "--rounds", 2)
    assert done.exit_code == 0
    assert "DataLoader" not in done.stdout
    for text in ("files to codes / model alone", "decoding alone", "round 2", "median", "8 pictures", "load average"):
        assert text in done.stdout


def test_the_obvious_way() -> None:
    done = run(DATA / "pictures", "--model", MODEL, "--rounds", 3, "--threads", 1, "--peers", "dataloader", "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    rounds = values["rounds"]
    for one in rounds:
        assert one["gain"] == one["end_to_end"] / one["obvious"]
    assert values["obvious"] == sorted(one["obvious"] for one in rounds)[1]
    assert values["gain"] == sorted(one["gain"] for one in rounds)[1]


def test_its_own_pictures_and_an_untrained_network_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = run("--backbone", "tiny", "--bits", 24, "--images", 2, "--rounds", 1, "--threads", 1, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert (values["backbone"], values["bits"], values["pictures"]) == ("tiny", 24, 2)
    assert not list(tmp_path.glob("queryopt-*"))  # torch leaves a cache folder of its own


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", MODEL, "--bits", 12], 2, "leave out --model"),
        (["--model", MODEL, "--backbone", "tiny"], 2, "leave out --model"),
        (["--model", "none.onnx", "--images", 1], 3, "no such model"),
        (["none", "--model", MODEL], 3, "no such file or folder"),
        (["--backbone", "resnet5", "--images", 1], 2, "resnet50"),
        (["--rounds", 0], 2, "--rounds"),
    ],
)
def test_errors(arguments: list[Any], code: int, says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == code, done.output
    assert says in done.stderr


def test_an_empty_folder(tmp_path: Path) -> None:
    done = run(tmp_path, "--model", MODEL)
    assert done.exit_code == 3
    assert "no pictures" in done.stderr


def test_without_torch_a_model_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    done = run("--images", 1)
    assert done.exit_code == 4
    assert "or give --model" in done.stderr
