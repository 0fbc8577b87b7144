"""What `import queryopt` means to Python that is started at a checkout's root.

There, as anywhere else, it is the installed package: it has the compiled search core, and the commands use it. Where a
file of the checkout has changed since, a warning says so. Without an installed package of the checkout's version it is
the checkout's sources, where the rooms lie beside queryopt/, and searches are NumPy's.
"""

import importlib.util
import math
import os
import sys
import warnings
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["enter"]

_ROOMS = ("train", "export", "runtime", "bench")
_SUFFIXES = {".py", ".jinja", ".css", ".js", ".svg"}
_NATIVE = "runtime/search/native"


def enter(path: list[str], version: str) -> None:
    """Put the installed package in the place of the checkout's, whose `__path__` and version these are, or complete the
    checkout's by its rooms.
    """
    root = Path(path[0]).resolve().parent
    if not (root / "pyproject.toml").is_file():
        return
    package = _installed_package(root)
    if package is None:
        path.append(str(root))
        return
    folder = package.__path__[0]
    if package.__version__ != version:
        path.append(str(root))
        warnings.warn(
            f"queryopt {package.__version__} is installed in {folder}, and this checkout is {version}: its sources are "
            "used, without the compiled search core; to install it, make setup",
            stacklevel=3,
        )
        return
    sys.modules["queryopt"] = package
    if changed := _changed_file(root, Path(folder)):
        warnings.warn(
            f"{changed} has changed since queryopt was installed in {folder}, which is what runs here too: to install "
            "it again, make setup",
            stacklevel=3,
        )


def _installed_package(root: Path) -> ModuleType | None:
    """The package that Python would find if `root` were not on its path; None where it would find none, or no rooms."""
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() != root]
    spec = PathFinder.find_spec("queryopt", elsewhere)
    if spec is None or spec.loader is None or not os.path.isdir(Path(spec.origin or "").parent / "runtime"):
        return None
    package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


def _changed_file(root: Path, package: Path) -> str:
    """The first file of the checkout that is not as it was when the package was installed; '' where there is none."""
    for room in ("queryopt", *_ROOMS):
        installed = package if room == "queryopt" else package / room
        for path in sorted((root / room).rglob("*")):
            if path.suffix not in _SUFFIXES:
                continue
            copy = installed / path.relative_to(root / room)
            if not copy.is_file() or copy.read_bytes() != path.read_bytes():
                return str(path.relative_to(root))
    core = next((package / "runtime" / "search").glob("_core.*.so"), None)
    built = core.stat().st_mtime if core is not None else math.inf
    for path in sorted((root / _NATIVE).rglob("*")):
        if path.stat().st_mtime > built:
            return str(path.relative_to(root))
    return ""
