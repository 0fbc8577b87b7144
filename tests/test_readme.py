"""What README and docs show runs."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/datasets.md", "docs/formats.md")
SNIPPETS = [
    pytest.param(code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S), 1)
]
COMMANDS = sorted({tuple(line.split()) for line in re.findall(r"^\$ (qo-.*)$", (ROOT / "README.md").read_text(), re.M)})


@pytest.mark.parametrize("code", SNIPPETS)
def test_python_snippets_run(code: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "data" / "pictures", tmp_path / "photos")
    shutil.copy(ROOT / "tests" / "data" / "v1" / "model.onnx", tmp_path)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_every_step() -> None:
    assert {"qo-train", "qo-export", "qo-infer", "qo-search", "qo-eval", "qo-bench"} <= {c[0] for c in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_options_of_the_readme_exist(command: tuple[str, ...]) -> None:
    main = next(e for e in distribution("queryopt").entry_points if e.name == command[0]).load()
    # With --help last, everything before it is parsed, and nothing runs.
    result = CliRunner().invoke(main, [*command[1:], "--help"])
    assert result.exit_code == 0, result.output
    options = [word for word in command if word.startswith("-")]
    assert all(option in result.output for option in options)
