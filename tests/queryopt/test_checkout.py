"""Python that is started at a checkout's root: it runs the installed package, as everywhere else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import queryopt

INSTALLED = Path(queryopt.__file__).parent
ROOMS = ("train", "export", "runtime", "bench")
SHOW = """
import importlib.util, os, queryopt
names = ("queryopt", "queryopt.runtime", "queryopt.text")
print(queryopt.__path__[0], *(os.path.dirname(importlib.util.find_spec(name).origin) for name in names))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What is installed, laid out as a checkout is: the rooms beside queryopt/, without what was compiled."""
    root = tmp_path / "checkout"
    shutil.copytree(INSTALLED, root / "queryopt", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for room in ROOMS:
        (root / "queryopt" / room).rename(root / room)
    (root / "pyproject.toml").touch()
    return root


def python_at(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)


def used_at(root: Path, *flags: str) -> tuple[list[str], str]:
    """The folders of: its path, itself, a room, a module; and what is said about it."""
    done = python_at(root, *flags, "-c", SHOW)
    return done.stdout.split(), done.stderr


def test_it_runs_what_is_installed(checkout: Path) -> None:
    folders = [str(INSTALLED), str(INSTALLED), str(INSTALLED / "runtime"), str(INSTALLED)]
    assert used_at(checkout) == (folders, "")
    assert python_at(checkout, "-m", "queryopt.train", "--version").stdout == f"qo-train {queryopt.__version__}\n"


def test_the_search_core_is_the_one_of_everywhere_else(checkout: Path, tmp_path: Path) -> None:
    code = "from queryopt.runtime.search.core import paths; print(paths())"
    here, there = (python_at(folder, "-c", code) for folder in (checkout, tmp_path))
    assert (here.stdout, here.stderr) == (there.stdout, there.stderr)


@pytest.mark.parametrize("change", ["edited", "new"])
def test_a_file_that_is_not_installed_yet_is_named(checkout: Path, change: str) -> None:
    name = {"edited": "train/loop.py", "new": "export/fold_more.py"}[change]
    with open(checkout / name, "a") as file:
        file.write("\n# more\n")
    folders, said = used_at(checkout)
    assert folders[0] == str(INSTALLED)
    assert f"{name} has changed since queryopt was installed in {INSTALLED}" in said
    assert "make setup" in said


def test_another_version_is_not_taken_for_this_one(checkout: Path) -> None:
    opening = checkout / "queryopt" / "__init__.py"
    opening.write_text(opening.read_text().replace(f'"{queryopt.__version__}"', '"99.0"'))
    folders, said = used_at(checkout)
    ours = checkout / "queryopt"
    assert folders == [str(ours), str(ours), str(checkout / "runtime"), str(ours)]
    assert f"queryopt {queryopt.__version__} is installed" in said
    assert "this checkout is 99.0: its sources are used" in said


def test_without_an_installed_one_it_runs_the_sources(checkout: Path) -> None:
    folders, said = used_at(checkout, "-S")  # no site-packages
    ours = checkout / "queryopt"
    assert folders == [str(ours), str(ours), str(checkout / "runtime"), str(ours)]
    assert said == ""
