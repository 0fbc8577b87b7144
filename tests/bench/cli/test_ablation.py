"""qo-bench ablation, on generated birds."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from queryopt.bench.cli.bench import main
from queryopt.errors import ExitCode

BUDGET = ("--preset", "tiny", "--open-set", "3", "--iterations", "1", "--epochs", "1", "--samples", "24")


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"synthetic:birds?classes=7&train=6&test=2&size=32&folder={tmp_path_factory.mktemp('data') / 'birds'}"


def arguments(data: str, out: Path, *more: str) -> list[str]:
    return ["ablation", "--data", data, "--out", str(out), "--threads", "1", *BUDGET, *more]


def study(data: str, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(data, out, *more), catch_exceptions=False)


@pytest.fixture(scope="module")
def done(birds: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The studies modules and methods, of which the base and N = 8 are both. Not to be changed."""
    out = tmp_path_factory.mktemp("studies")
    return out, study(birds, out, "--study", "modules", "--study", "methods", "--json")


def test_shared_rows_are_trained_once_and_all_is_written(done: tuple[Path, Result]) -> None:
    out, result = done
    assert result.exit_code == ExitCode.DONE, result.output
    runs = {path.name for path in out.iterdir() if path.is_dir()}
    assert runs == {f"{name}-seed1" for name in ("base", "S", "n1", "n8", "dpsh", "hashnet", "dpsh-b48", "hashnet-b48")}
    modules, methods = json.loads(result.stdout)["tables"]
    assert [row["arm"] for row in modules["rows"]] == ["base", "S", "n1", "n8"]
    assert [row["arm"] for row in methods["rows"]] == ["dpsh", "hashnet", "dpsh-b48", "hashnet-b48", "base", "n8"]
    assert modules["rows"][0]["values"] == methods["rows"][4]["values"]
    written = json.loads((out / "studies.json").read_text())
    assert {"command", "machine", "versions", "data"} <= set(written)
    assert len(written["runs"]) == 8
    assert "+ S + Q + A (N = 8)" in (out / "studies.md").read_text()
    assert (out / "modules.png").is_file()
    assert (out / "methods.png").is_file()


def test_each_run_is_measured_on_seen_and_on_unseen_classes(done: tuple[Path, Result]) -> None:
    out, _ = done
    for name in ("base", "n8", "dpsh"):
        values = json.loads((out / f"{name}-seed1" / "result.json").read_text())
        assert (values["deployed"]["gallery"], values["deployed"]["queries"]) == (4 * 6, 4 * 2)
        assert 0 < values["unseen"]["map_uncut"] <= 1
        assert values["unseen"]["map"] < values["unseen"]["map_class_codes"] <= 1
        assert (values["unseen"]["classes"], values["unseen"]["gallery"], values["unseen"]["queries"]) == (3, 18, 6)
        assert 1 <= values["codes"]["distinct_network"] <= 4
        assert ("paper" in values) == (name != "dpsh")
        assert values["codes"]["columns"] == (96 if name == "n8" else 12)


def test_the_figures_are_those_of_qo_eval(done: tuple[Path, Result]) -> None:
    from queryopt.bench.cli.evaluate import main as qo_eval
    from queryopt.export.cli import main as qo_export

    run = done[0] / "n8-seed1"
    assert CliRunner().invoke(qo_export, ["--ckpt", str(run), "--no-fold"]).exit_code == ExitCode.DONE
    evaluated = CliRunner().invoke(qo_eval, ["--run", str(run), "--protocol", "both", "--rank", "id", "--json"])
    assert evaluated.exit_code == ExitCode.DONE, evaluated.output
    models = json.loads(evaluated.stdout)["models"]
    own = json.loads((run / "result.json").read_text())
    deployed, paper = (m for m in models if m["part"] == "seen")
    [unseen] = (m for m in models if m["part"] == "unseen" and m["protocol"] == "deployed")
    for name, model in (("deployed", deployed), ("paper", paper), ("unseen", unseen)):
        assert own[name]["map"] == pytest.approx(model["map"])


def test_finished_runs_are_kept_and_a_failed_one_is_named(
    birds: str, done: tuple[Path, Result], tmp_path: Path
) -> None:
    import shutil

    out = Path(shutil.copytree(done[0], tmp_path / "out"))
    before = (out / "n1-seed1" / "last.pt").stat().st_mtime_ns
    broken = out / "base-seed2"
    broken.mkdir()
    (broken / "last.pt").write_bytes(b"no checkpoint")
    again = study(birds, out, "--study", "modules", "--only", "n1,base,S", "--seeds", "2")
    assert again.exit_code == ExitCode.SOME_FAILED
    assert "n1-seed1: mAP" in again.stderr
    assert "(done before)" in again.stderr
    assert "base-seed2: failed:" in again.stderr
    assert "Traceback" not in again.stderr
    assert (out / "n1-seed1" / "last.pt").stat().st_mtime_ns == before
    assert (out / "S-seed2" / "result.json").is_file()
    table = json.loads((out / "studies.json").read_text())["tables"][0]
    assert {row["arm"]: row["seeds"] for row in table["rows"]} == {"base": [1], "S": [1, 2], "n1": [1, 2], "n8": [1]}


def test_the_papers_row_stands_beside_a_data_set_of_the_paper(tmp_path: Path) -> None:
    food = tmp_path / "food-101"
    names = ("apple_pie", "baklava")
    for label, name in enumerate(names):
        (food / "images" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (40, 40), (60 + 120 * label, 30 * number, 90)).save(food / f"images/{name}/{number}.jpg")
    (food / "meta").mkdir()
    (food / "meta" / "classes.txt").write_text("\n".join(names))
    for part, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        (food / "meta" / f"{part}.txt").write_text("".join(f"{name}/{n}\n" for name in names for n in numbers))
    options = ["--study", "methods", "--only", "base,n8", "--out", str(tmp_path / "out"), "--threads", "1"]
    budget = ["--preset", "tiny", "--iterations", "1", "--samples", "6"]
    where = ["--data", "food101", "--root", str(tmp_path), "--any-size"]
    result = CliRunner().invoke(main, ["ablation", *where, *options, *budget], catch_exceptions=False)
    assert result.exit_code == ExitCode.DONE, result.output
    assert [line.split()[-3] for line in result.stdout.splitlines() if "%" in line] == ["35.64", "70.69"]
    assert "not run yet: dpsh, hashnet, dpsh-b48, hashnet-b48" in result.stdout


def test_a_dry_run_names_the_runs_and_trains_nothing(birds: str, tmp_path: Path) -> None:
    result = study(birds, tmp_path / "out", "--study", "causes", "--only", "n1,n8-gamma-high", "--dry-run", "--json")
    assert result.exit_code == ExitCode.DONE
    runs = json.loads(result.stdout)["runs"]
    assert [(run["run"], run["state"]) for run in runs] == [("n1-seed1", "to do"), ("n8-gamma-high-seed1", "to do")]
    assert all(isinstance(run["seconds"], float) for run in runs)  # a forecast
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(birds: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = arguments(birds, out, "--study", "branches", "--only", "n1", "--iterations", "40")
    program = "import sys; from queryopt.bench.cli.bench import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *long], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (out / "n1-seed1" / "last.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, errors
    assert "the same command goes on" in errors
    assert not (out / "n1-seed1" / "result.json").exists()
    result = CliRunner().invoke(main, long, catch_exceptions=False)
    assert result.exit_code == ExitCode.DONE, result.output
    assert (out / "n1-seed1" / "result.json").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--study", "module"], "did you mean modules"),
        ([], "--study"),
        (["--study", "modules", "--only", "n9"], "--only n9: the arms are base"),
        (["--study", "modules", "--preset", "smal"], "did you mean small"),
        (["--study", "modules", "--iterations", "2"], "iterations: 2, not 1"),
        (["--study", "codes", "--codes", "noise"], "say how codes start: leave it out"),
        (["--study", "modules", "--root", "x"], "--root goes with an official data set"),
    ],
)
def test_bad_input_is_one_line(birds: str, done: tuple[Path, Result], more: list[str], message: str) -> None:
    result = study(birds, done[0], *more)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr
    assert "Traceback" not in result.stderr
