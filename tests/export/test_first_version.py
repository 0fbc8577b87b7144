"""The first version's model.onnx and checkpoint, frozen: later versions still open them, and get these codes."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from queryopt.codes import codes_to_uint64
from queryopt.export import export_onnx
from queryopt.export.count import count_multiply_adds
from queryopt.images import load_image
from queryopt.runtime.backends import open_backend

DATA = Path(__file__).parent.parent / "data"
EXPECTED = json.loads((DATA / "v1" / "expected.json").read_text())


@pytest.fixture(scope="module")
def session():
    session = open_backend(DATA / "v1" / "model.onnx", threads=1)
    yield session
    session.close()


def test_its_card_is_read(session):
    card = session.card
    assert (card.format_version, card.bits, card.backbone, card.precision) == (1, 12, "tiny", "fp32")
    assert card.fingerprint == EXPECTED["fingerprint"]
    assert card.logit_scale == pytest.approx(EXPECTED["logit_scale"])
    assert card.parity["flipped"] == 0


def check_codes(session):
    names = sorted(EXPECTED["pictures"])
    pixels = np.stack([load_image(DATA / "pictures" / name, session.card.preprocessing) for name in names])
    output = session.run(pixels)
    expected = [EXPECTED["pictures"][name] for name in names]
    assert [code.tobytes().hex() for code in output.codes] == [e["code"] for e in expected]
    assert codes_to_uint64(output.codes, 12).tolist() == [e["integer"] for e in expected]
    np.testing.assert_allclose(output.logits, [e["logits"] for e in expected], atol=0.02)


def test_it_gives_the_codes_of_the_first_version(session):
    check_codes(session)


def test_its_checkpoint_exports_to_a_model_of_the_same_codes(tmp_path):
    path = export_onnx(DATA / "v1" / "best.safetensors", tmp_path, parity=False, threads=1).path
    with contextlib.closing(open_backend(path, threads=1)) as session:
        assert session.card.fingerprint == EXPECTED["fingerprint"]
        check_codes(session)


def test_its_graph_can_still_be_counted():
    import onnx

    assert count_multiply_adds(onnx.load(DATA / "v1" / "model.onnx")).total == 1_149_312
