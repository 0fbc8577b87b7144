"""qo-bench flops."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from queryopt.bench.cli.bench import main
from queryopt.bench.speed.flops import flop_report
from queryopt.train.checkpoint import save_best
from queryopt.train.config import TrainConfig
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig

TINY = ("--bits", "12", "--backbone", "tiny", "--image-size", "64")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["flops", *map(str, arguments)], catch_exceptions=False)


def counted(*arguments: str | Path) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)
    return values


def test_tables_show_the_counts_beside_the_papers() -> None:
    report = flop_report(NetworkConfig(12))
    result = run("--bits", "12")
    assert result.exit_code == 0
    assert f"{report.trainable:,} trainable parameters, {report.parameters:,} in all" in result.stdout
    for name, count in report.passes().items():
        row = next(line for line in result.stdout.splitlines() if f" {name} " in line)
        assert [cell.strip() for cell in row.strip("│ ").split("│")[1:]] == [
            f"{number:,}" for number in (count.queries, count.paper, count.torch)
        ]
    for text in ("ExchNet", "SEMICON", "AGMH", "8.61 G", "backbone", "decoder"):
        assert text in result.stdout


@pytest.mark.parametrize("other", [TINY, ("--bits", "12", "--image-size", "160")])
def test_another_kind_of_network_is_not_set_beside_the_papers(other: tuple[str, ...]) -> None:
    result = run(*other)
    assert result.exit_code == 0
    assert "ExchNet" not in result.stdout
    assert "decoder" in result.stdout


def test_json_is_the_report_alone() -> None:
    values = counted("--bits", "12")
    report = flop_report(NetworkConfig(12))
    assert values == json.loads(json.dumps(report.to_dict()))
    assert values["inference"]["paper"] == report.inference.paper
    assert values["inference"]["parts"]["backbone"]["torch"] == report.inference.parts["backbone"].torch
    assert [row["name"] for row in values["paper_table_4"]][:3] == ["ExchNet", "SEMICON", "AGMH"]


def test_options_choose_the_network() -> None:
    values = counted("--bits", "24", "--backbone", "resnet18", "--branches", "3", "--image-size", "160")
    network = NetworkConfig.from_dict(values["network"])
    assert network == NetworkConfig(24, backbone="resnet18", branches=3, image_size=160)
    assert values["training"]["queries"] == 72
    assert values["inference"]["torch"] < 1_500_000_000


def test_a_checkpoint_says_what_its_network_is(tmp_path: Path) -> None:
    network = NetworkConfig(6, backbone="tiny", dim=32, feedforward=64, image_size=32, branches=2)
    torch.manual_seed(0)
    save_best(tmp_path / "best.safetensors", QueryOpt(network).state_dict(), TrainConfig(network))
    for source in (tmp_path, tmp_path / "best.safetensors"):
        values = counted("--ckpt", source)
        assert NetworkConfig.from_dict(values["network"]) == network
        assert values["parameters"] == sum(p.numel() for p in QueryOpt(network).parameters())


def test_files_are_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "costs"
    result = run(*TINY, "--out", folder)
    assert result.exit_code == 0
    assert str(folder / "flops.png") in result.stderr
    assert json.loads((folder / "flops.json").read_text()) == counted(*TINY)
    with Image.open(folder / "flops.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("arguments", [[], ["--bits", "65"], ["--ckpt", "runs/none"], ["--ckpt", "a", "--bits", "8"]])
def test_simple_errors_do_not_wait_for_torch(arguments: list[str], tmp_path: Path) -> None:
    code = "import atexit, sys; from queryopt.bench.cli.bench import main"
    code += "; atexit.register(lambda: print('torch' in sys.modules)); main()"
    command = [sys.executable, "-c", code, "flops", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (2, 3), done.stderr
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "qo-bench flops runs/a"),
        (["--bits", "65"], 2, "1 to 64"),
        (["--bits", "12", "--backbone", "resnet5"], 2, "did you mean"),
        (["--bits", "12", "--branches", "0"], 2, "branches is 0"),
        (["--bits", "12", "--image-size", "1000"], 2, "at most 528"),
        (["--bits", "12", "--ckpt", "runs/a"], 2, "--bits: the checkpoint says"),
        (["--ckpt", "runs/none"], 3, "runs/none"),
        (["--bit", "12"], 2, "--bits"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    result = run(*TINY, "--out", tmp_path / "taken")
    assert result.exit_code == 3
    assert "taken: File exists" in result.stderr
    assert (tmp_path / "taken").read_text() == "mine"
