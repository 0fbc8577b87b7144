"""The first version's index, which every later version must open, search and update. How it was made: its README."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.codes import unpack_codes
from queryopt.runtime import HammingIndex, Hasher, HashIndex
from queryopt.runtime.index.schema import SCHEMA_VERSION

DATA = Path(__file__).parents[2] / "data"
STALE = b"\xff\n.jpg"


@pytest.fixture
def expected() -> Any:
    return json.loads((DATA / "v1/expected.json").read_text())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the index beside copies of its pictures and its model."""
    shutil.copytree(DATA / "pictures", tmp_path / "pictures")
    for name in ("index.db", "model.onnx"):
        shutil.copyfile(DATA / "v1" / name, tmp_path / name)
    return tmp_path / "index.db"


def test_opens_with_all_that_it_holds(copy: Path, expected: Any) -> None:
    with HashIndex.open(copy) as index:
        assert (index.card.fingerprint, index.bits) == (expected["fingerprint"], 12)
        assert (index.root, index.model_path) == (copy.parent / "pictures", copy.parent / "model.onnx")
        assert (len(index), index.info().schema_version) == (9, SCHEMA_VERSION)
        images = {image.relative: image for image in index}
        assert {name: image.id for name, image in images.items()} == {
            name.encode(): id for id, name in enumerate(sorted(expected["pictures"]), 1)
        } | {STALE: 10}
        for name, picture in expected["pictures"].items():
            image = images[name.encode()]
            assert image.code.tobytes().hex() == picture["code"]
            assert (image.label, image.stale) == (name.split("/")[0], False)
            np.testing.assert_array_equal(image.margins > 0, unpack_codes(image.code[None], 12)[0])
            scaled = 127 * np.abs(picture["logits"]) / expected["logit_scale"]
            assert np.abs(np.abs(image.margins) - np.clip(scaled, 1, 127)).max() <= 2.5
        assert (images[STALE].label, images[STALE].stale) == (None, True)
        assert index.verify().ok


def test_is_searched(copy: Path, expected: Any) -> None:
    names = sorted(expected["pictures"])
    codes = np.array([expected["pictures"][name]["integer"] for name in names], np.uint64)
    # The stale ninth row has the code of finch/1.jpg.
    oracle = HammingIndex(np.append(codes, codes[:1]), 12, [*range(1, 9), 10])
    with HashIndex.open(copy, readonly=True) as index:
        hits, near = index.search(codes, k=11), index.search_radius(codes, 4)
    np.testing.assert_array_equal(hits.ids, oracle.search(codes, 11).ids)
    np.testing.assert_array_equal(hits.distances, oracle.search(codes, 11).distances)
    np.testing.assert_array_equal(near.ids, oracle.search_radius(codes, 4).ids)


def test_is_updated(copy: Path, expected: Any) -> None:
    with HashIndex.open(copy) as index, Hasher(copy.parent / "model.onnx", threads=1) as hasher:
        for image in index:
            if image.id in (1, 2, 3):
                os.utime(image.path, ns=(image.mtime_ns, image.mtime_ns))
        shutil.copyfile(index[4].path, index.root / "new.png")
        report = index.update(hasher)
        assert (report.hashed, report.updated, report.unchanged, len(report.vanished)) == (1, 5, 3, 1)
        assert (report.failed, report.stale) == ({}, {})
        new = index.find("new.png")
        assert new is not None
        assert new.id == 11
        assert new.code.tobytes() == index[4].code.tobytes()
        for name, picture in expected["pictures"].items():
            assert index.find(name).code.tobytes().hex() == picture["code"]  # type: ignore[union-attr]
        report = index.update(hasher, prune=True)
        assert (report.unchanged, report.removed) == (9, 1)
        assert index.verify().ok
