"""What README and docs show runs."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/datasets.md", "docs/formats.md")
SNIPPETS = [
    pytest.param(page, code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S), 1)
]
COMMANDS = sorted({tuple(line.split()) for line in re.findall(r"^\$ (qo-.*)$", (ROOT / "README.md").read_text(), re.M)})


def entry_point(name: str) -> Any:
    return next(e for e in distribution("queryopt").entry_points if e.name == name).load()


@pytest.mark.parametrize(("page", "code"), SNIPPETS)
def test_python_snippets_run(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ROOT / "tests" / "data" / "v1" / "model.onnx"
    shutil.copytree(ROOT / "tests" / "data" / "pictures", tmp_path / "photos")
    if page == "README.md":  # its snippet goes on where its commands end
        (tmp_path / "runs" / "a").mkdir(parents=True)
        shutil.copy(model, tmp_path / "runs" / "a")
        monkeypatch.chdir(tmp_path)
        (infer,) = (command for command in COMMANDS if command[0] == "qo-infer")
        hashed = CliRunner().invoke(entry_point("qo-infer"), infer[1:])
        assert hashed.exit_code == 0, hashed.output
    else:
        shutil.copy(model, tmp_path)
    for _ in range(2 if page == "README.md" else 1):  # and can be run again
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_shows_every_step() -> None:
    assert {"qo-train", "qo-export", "qo-infer", "qo-search", "qo-eval", "qo-bench"} <= {c[0] for c in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_of_the_readme_exist(command: tuple[str, ...]) -> None:
    main = entry_point(command[0])
    # With --help last, everything before it is parsed, and nothing runs.
    result = CliRunner().invoke(main, [*command[1:], "--help"])
    assert result.exit_code == 0, result.output
    options = [word for word in command if word.startswith("-")]
    assert all(option in result.output for option in options)


def test_the_files_that_contributing_names_are_there() -> None:
    rooms = "queryopt|train|runtime|export|bench|tests"
    named = re.findall(rf"`((?:{rooms})/[\w/]*(?:\.\w+)?)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []
