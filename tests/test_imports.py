"""The rooms' import rules: bench -> export -> train, bench -> runtime, export -> runtime, all -> queryopt."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib.machinery import EXTENSION_SUFFIXES
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


def dotted(module: Path) -> str:
    parts = ("queryopt", *module.parts[:-1], module.name.partition(".")[0])
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of all import statements of ours: at the top, inside functions and under TYPE_CHECKING alike."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "queryopt")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "queryopt":
            yield from ((node.module or "", alias.name) for alias in node.names)


def import_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Which modules each module imports. sources: by dotted name.

    A lazy `__init__` (queryopt.lazy) loads nothing when it is imported: a name that is taken from it counts as taken
    from the module that it points to, and it imports nothing itself. Any other `__init__` is a module like all: who
    takes a name from it imports it, and it imports what it says. That it also runs where a module below it is imported
    is not counted, and neither is what `importlib` loads by its name: methods and data sets are plug-ins.
    """
    names = {module: list(imported_names(ast.parse(source))) for module, source in sources.items()}
    signposts = {
        module: {name: home for home, name in names[module]}
        for module in names
        if ("queryopt.lazy", "lazy_names") in names[module]
    }

    def home(module: str, name: str) -> str:
        if f"{module}.{name}" in sources:
            return f"{module}.{name}"
        return home(signposts[module][name], name) if name in signposts.get(module, {}) else module

    graph = {module: {home(*each) for each in names[module]} - {module} for module in names}
    return graph | {module: set() for module in signposts}


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring, the first again at the end; none where all stand in an order."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    compiled = [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.name.endswith(tuple(EXTENSION_SUFFIXES))]
    sources = {dotted(m): (PACKAGE / m).read_text() for m in MODULES} | {dotted(m): "" for m in compiled}
    graph = import_graph(sources)
    assert set().union(*graph.values()) <= set(sources)
    assert circle_in(graph) == []


def test_a_circle_is_found_however_it_is_imported() -> None:
    lazy = "from queryopt.lazy import lazy_names\nif TYPE_CHECKING:\n    from queryopt.a.one import One"
    sources = {
        "queryopt.lazy": "",
        "queryopt.a": lazy,
        "queryopt.a.one": "def later():\n    from queryopt.a import two",
        "queryopt.a.two": "if TYPE_CHECKING:\n    import queryopt.b",
        "queryopt.b": "from queryopt.a import One",
    }
    graph = import_graph(sources)
    assert graph["queryopt.b"] == {"queryopt.a.one"}
    assert sorted(circle_in(graph)[1:]) == ["queryopt.a.one", "queryopt.a.two", "queryopt.b"]
    assert circle_in(import_graph({**sources, "queryopt.b": "from queryopt.a import unknown"})) == []


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


@pytest.mark.parametrize("name", ["HammingIndex", "HashIndex", "Hasher", "find_model", "open_backend"])
def test_what_hashes_and_searches_loads_numpy_alone(name: str, tmp_path: Path) -> None:
    """Not click, rich or Pillow, nor what runs models: that comes when it is needed."""
    bare = top_level_modules_after("pass", tmp_path)
    loaded = top_level_modules_after(f"from queryopt.runtime import {name}", tmp_path) - bare
    assert loaded == {"queryopt", "numpy"}


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
