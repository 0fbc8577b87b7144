"""The rooms' import rules: bench -> export -> train, bench -> runtime, export -> runtime, all -> queryopt."""

import ast
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import queryopt

PACKAGE = Path(queryopt.__file__).parent
ROOMS = {
    "queryopt": set(),
    "train": {"queryopt"},
    "runtime": {"queryopt"},
    "export": {"queryopt", "train", "runtime"},
    "bench": {"queryopt", "train", "export", "runtime"},
}
MODULES = sorted(p.relative_to(PACKAGE) for p in PACKAGE.rglob("*.py"))


def room_of(module: Path) -> str:
    return module.parts[0] if module.parts[0] in ROOMS else "queryopt"


def imported_rooms(source: str) -> set[str]:
    """The rooms that a module's import statements name, those inside functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    parts = [name.split(".") for name in names if name.split(".")[0] == "queryopt"]
    return {p[1] if len(p) > 1 and p[1] in ROOMS else "queryopt" for p in parts}


def test_all_rooms_are_looked_at() -> None:
    # python -m pytest in a checkout would find queryopt/ there, which has none.
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_room_imports_only_what_it_may(module: Path) -> None:
    room = room_of(module)
    allowed = ROOMS[room] | {room}
    assert imported_rooms((PACKAGE / module).read_text()) <= allowed


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in {"runtime", "queryopt"}], ids=str)
def test_the_runtime_never_imports_torch(module: Path) -> None:
    tree = ast.parse((PACKAGE / module).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {n for n in names if n.split(".")[0] in {"torch", "torchvision", "onnx", "safetensors"}}


def top_level_modules_after(statement: str, folder: Path) -> set[str]:
    """Names of top-level packages outside the standard library that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*{{m.split('.')[0] for m in sys.modules}} - set(sys.stdlib_module_names))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_runtime_pulls_in_numpy_alone(tmp_path: Path) -> None:
    # What a bare start holds already (the installer's .pth files, say) is not the package's doing.
    bare = top_level_modules_after("pass", tmp_path)
    assert top_level_modules_after("import queryopt.runtime", tmp_path) - bare <= {"queryopt", "numpy"}


@pytest.mark.parametrize("room", ["train", "export", "bench"])
def test_importing_a_room_does_not_load_torch(room: str, tmp_path: Path) -> None:
    assert "torch" not in top_level_modules_after(f"import queryopt.{room}", tmp_path)


@pytest.mark.parametrize(
    "command", sorted(e.name for e in distribution("queryopt").entry_points if e.group == "console_scripts")
)
def test_help_is_there_with_an_example_and_loads_nothing_heavy(command: str, tmp_path: Path) -> None:
    entry = next(e for e in distribution("queryopt").entry_points if e.name == command)
    code = (
        f"import sys\nfrom {entry.module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert not {'torch', 'onnxruntime', 'matplotlib', 'onnx', 'PIL', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert command in done.stdout
    assert "Example" in done.stdout


@pytest.mark.parametrize("name", ["train", "export", "runtime", "bench", "tests"])
def test_bare_room_names_are_not_importable_from_what_is_installed(name: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode != 0
    assert b"ModuleNotFoundError" in done.stderr


def test_what_is_installed_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
