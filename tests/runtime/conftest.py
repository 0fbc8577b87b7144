"""The frozen first-version model and its pictures."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queryopt.runtime.search.core import NUMPY, PATH_VARIABLE

_DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def native_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tables and multi-indexes, which NumPy's search has not: whatever $QUERYOPT_SEARCH_PATH says, not that one."""
    if os.environ.get(PATH_VARIABLE) == NUMPY:
        monkeypatch.delenv(PATH_VARIABLE)


@pytest.fixture(scope="session")
def frozen_model() -> Path:
    """A model.onnx of 12 bits and 32 pixels; never written to."""
    return _DATA / "v1" / "model.onnx"


@pytest.fixture(scope="session")
def explained_model() -> Path:
    """The frozen model, exported with --explain."""
    return _DATA / "v1-explained" / "model.onnx"


@pytest.fixture(scope="session")
def frozen_pictures() -> Path:
    """Eight pictures in two sub-folders; never written to."""
    return _DATA / "pictures"


@pytest.fixture(scope="session")
def frozen_codes() -> dict[str, dict[str, Any]]:
    """What the frozen model gives for the frozen pictures: relative path -> code (hex), integer, logits."""
    expected: dict[str, dict[str, dict[str, Any]]] = json.loads((_DATA / "v1" / "expected.json").read_text())
    return expected["pictures"]


@pytest.fixture
def changed_model(frozen_model: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    """(change) -> path of a copy of the frozen model; change is called with its onnx.ModelProto."""
    import onnx

    def make(change: Callable[[Any], None]) -> Path:
        model = onnx.load(frozen_model)
        change(model)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return make
