"""docs/formats.md is all that another program needs: a reader written from it alone agrees with ours."""

import os
from pathlib import Path

import numpy as np
import pytest

from queryopt.card import ModelCard, Preprocessing
from queryopt.codes import pack_codes
from queryopt.runtime import HammingIndex
from queryopt.runtime.index import HashIndex

from ..independent_reader import read_index, read_model, read_saved


@pytest.mark.parametrize("bits", [1, 12, 64])
def test_an_index(tmp_path: Path, bits: int) -> None:
    card = ModelCard(bits, Preprocessing(8, 8), "tiny", "fp32", logit_scale=2.0, fingerprint="f" * 64)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    names = [b"loose.png", b"a/1.png", b"a/\xff.png", b"a/2.png"]
    logits = np.random.default_rng(bits).uniform(-2, 2, (4, bits)).astype(np.float32)
    with HashIndex.create(tmp_path / "photos.db", card, tmp_path / "photos", tmp_path / "model.onnx") as index:
        for name in names:
            (tmp_path / "photos" / os.fsdecode(name)).write_bytes(name)
        index.add(names, pack_codes(logits >= 0), logits)
        index.remove([4])
        ours = {image.id: image for image in index}
    facts, images = read_index(tmp_path / "photos.db")
    assert facts["root"] == os.fsencode(tmp_path / "photos")
    assert facts["model_path"] == os.fsencode(tmp_path / "model.onnx")
    assert (facts["state"]["last_id"], facts["card"]["fingerprint"]) == (4, "f" * 64)
    assert {id: image["path"] for id, image in images.items()} == {1: names[0], 2: names[1], 3: names[2]}
    for id, image in images.items():
        assert image["code"] == ours[id].code.tobytes()
        assert image["label"] == (None if id == 1 else b"a")
        assert image["size"] == len(image["path"])
        assert np.array_equal(image["bits"], logits[id - 1] >= 0)


@pytest.mark.parametrize(
    ("bits", "structure"),
    [(7, "table"), (24, "table"), *((bits, kind) for bits in (7, 24, 40, 64) for kind in ("scan", "multi-index"))],
)
def test_a_saved_searcher(tmp_path: Path, bits: int, structure: str) -> None:
    rng = np.random.default_rng(bits)
    codes = pack_codes(rng.integers(0, 2, (500, bits)))
    codes[250:300] = codes[:50]
    index = HammingIndex(codes, bits, np.arange(500) * 3, structure=structure)
    index.remove([0, 9])
    index.add(codes[:7])
    index.save(tmp_path / "saved")
    read_bits, read_codes = read_saved(tmp_path / "saved")
    expected = {3 * row: code.tobytes() for row, code in enumerate(codes) if row not in (0, 3)}
    expected |= {1498 + row: code.tobytes() for row, code in enumerate(codes[:7])}
    assert (read_bits, read_codes) == (bits, expected)


def test_a_model(frozen_model: Path) -> None:
    card = read_model(frozen_model)
    assert (card["bits"], card["digest"]) == (12, None)  # it is older than the digest
