"""qo-bench welch, on runs of generated birds."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from queryopt.bench.cli.bench import main
from queryopt.bench.quality.welch import welch_bound
from queryopt.errors import ExitCode
from queryopt.train import preset_config, train


def welch(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["welch", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """n1/ and n3/: 4 bits of 6 classes, 1 and 3 branches. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    data = f"synthetic:birds?classes=8&train=4&test=1&size=32&folder={folder / 'birds'}"
    for branches in (3, 1):
        config = preset_config("tiny", bits=4, branches=branches, samples=16, iterations=1, open_set=2, data=data)
        train(config, None, folder / f"n{branches}")
    return folder


def test_a_row_a_run_in_the_order_of_n_and_files(runs: Path, tmp_path: Path) -> None:
    result = welch("--ckpt", runs / "n3", "--ckpt", runs / "n1", "--json", "--out", tmp_path / "w")
    assert result.exit_code == ExitCode.DONE, result.output
    one, three = json.loads(result.stdout)["runs"]
    assert (one["branches"], three["branches"]) == (1, 3)
    assert one["codes_of"] == "solved"
    assert one["all_columns"]["dimensions"] == 4
    assert one["all_columns"]["bound"] == welch_bound(6, 4) > 0
    assert one["all_columns"] == one["code"]
    assert three["all_columns"]["dimensions"] == 12
    assert three["all_columns"]["bound"] == 0
    for run in (one, three):
        for part in ("all_columns", "code"):
            assert run[part]["bound"] <= run[part]["rms"] <= run[part]["largest"] <= 1 + 1e-9
    assert json.loads((tmp_path / "w" / "welch.json").read_text())["runs"] == [one, three]
    with Image.open(tmp_path / "w" / "welch.png") as image:
        assert image.format == "PNG"


def test_a_table_says_whose_codes_they_are(runs: Path) -> None:
    result = welch("--ckpt", runs / "n1" / "best.safetensors", "--codes", "network")
    assert result.exit_code == ExitCode.DONE
    assert "network: the mean of the network's relaxed codes" in result.stdout
    assert "solved:" not in result.stdout


def test_the_networks_codes_are_taken_where_no_others_are(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copyfile(runs / "n3" / "best.safetensors", tmp_path / "some.safetensors")
    result = welch("--ckpt", tmp_path / "some.safetensors", "--json")
    assert result.exit_code == ExitCode.DONE, result.output
    [run] = json.loads(result.stdout)["runs"]
    assert (run["codes_of"], run["all_columns"]["dimensions"]) == ("network", 12)
    refused = welch("--ckpt", tmp_path / "some.safetensors", "--codes", "solved")
    assert refused.exit_code == ExitCode.INPUT
    assert "--codes network takes" in refused.stderr


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("--ckpt", "runs/none"), 3)])
def test_bad_input_is_one_line(arguments: tuple[str, ...], code: int) -> None:
    result = welch(*arguments)
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
