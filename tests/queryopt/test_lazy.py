import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package whose one public name lies in a module that counts its imports."""
    folder = tmp_path / "lazily"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from queryopt.lazy import lazy_names\n__getattr__, __dir__ = lazy_names(__name__, {'answer': 'heavy'})\n"
    )
    (folder / "heavy.py").write_text("answer = [42]\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("lazily")
    for name in [name for name in sys.modules if name.split(".")[0] == "lazily"]:
        del sys.modules[name]


def test_a_name_is_imported_when_it_is_used(package) -> None:
    assert "answer" in dir(package)
    assert "lazily.heavy" not in sys.modules
    assert package.answer == [42]
    assert "lazily.heavy" in sys.modules
    assert package.answer is vars(package)["answer"]


def test_other_names_are_refused_as_by_any_module_and_modules_can_be_imported(package) -> None:
    with pytest.raises(AttributeError, match="module 'lazily' has no attribute 'question'"):
        package.question  # noqa: B018
    assert importlib.import_module("lazily.heavy").answer == [42]


@pytest.mark.parametrize("room", ["train", "export", "runtime"])
def test_every_public_name_of_a_room_is_there(room: str) -> None:
    module = importlib.import_module(f"queryopt.{room}")
    assert module.__all__ == sorted(module.__all__, key=lambda n: (not n.isupper(), n[0].islower(), n))
    assert set(module.__all__) <= set(dir(module))
    assert all(hasattr(module, name) for name in module.__all__)
