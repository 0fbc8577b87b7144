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
PAGES = ("README.md", "docs/cli.md", "docs/datasets.md", "docs/formats.md")
SESSIONS = ("README.md", "docs/cli.md")
"""Their snippets go on where their commands end."""
SNIPPETS = [
    pytest.param(page, code, id=f"{page}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S), 1)
]
COMMANDS = {
    page: sorted({tuple(line.split()) for line in re.findall(r"^\$ (qo-.*)$", (ROOT / page).read_text(), re.M)})
    for page in SESSIONS
}


def entry_point(name: str) -> Any:
    return next(e for e in distribution("queryopt").entry_points if e.name == name).load()


@pytest.mark.parametrize(("page", "code"), SNIPPETS)
def test_python_snippets_run(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ROOT / "tests" / "data" / "v1" / "model.onnx"
    shutil.copytree(ROOT / "tests" / "data" / "pictures", tmp_path / "photos")
    if page in SESSIONS:
        (tmp_path / "runs" / "a").mkdir(parents=True)
        shutil.copy(model, tmp_path / "runs" / "a")
        monkeypatch.chdir(tmp_path)
        (infer,) = (command for command in COMMANDS[page] if command[0] == "qo-infer" and "runs/a" in command)
        hashed = CliRunner().invoke(entry_point("qo-infer"), infer[1:])
        assert hashed.exit_code == 0, hashed.output
    else:
        shutil.copy(model, tmp_path)
    for _ in range(2 if page in SESSIONS else 1):  # and can be run again
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_command_is_shown() -> None:
    steps = {"qo-train", "qo-export", "qo-infer", "qo-search", "qo-eval"}
    assert steps <= {command[0] for command in COMMANDS["README.md"]}
    assert steps | {"qo-bench"} <= {command[0] for command in COMMANDS["docs/cli.md"]}


def test_the_readme_is_read_in_four_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("command", sorted(set().union(*COMMANDS.values())), ids=" ".join)
def test_what_is_shown_is_parsed(command: tuple[str, ...]) -> None:
    # With --help last, everything before it is parsed, and nothing runs.
    result = CliRunner().invoke(entry_point(command[0]), [*command[1:], "--help"])
    assert result.exit_code == 0, result.output
    options = [word for word in command if word.startswith("-")]
    assert all(option in result.output for option in options)


def test_links_to_files_and_headings_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    anchors = {page: {_anchor(title) for title in re.findall(r"^#+ (.*)$", page.read_text(), re.M)} for page in pages}
    dead = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            if "://" not in link and (not target.exists() or (anchor and anchor not in anchors.get(target, {anchor}))):
                dead.append(f"{page.name}: {link}")
    assert dead == []


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_the_files_that_contributing_names_are_there() -> None:
    rooms = "queryopt|train|runtime|export|bench|tests"
    named = re.findall(rf"`((?:{rooms})/[\w/]*(?:\.\w+)?)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name).exists()] == []
