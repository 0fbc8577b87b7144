import contextlib
from dataclasses import replace

import pytest

from queryopt.errors import MissingError, ParityError, UsageError
from queryopt.export import check_parity
from queryopt.export.gate import open_serving, require_all
from queryopt.export.onnx import model_card, with_card
from queryopt.export.precision import lower_precision


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def test_every_backend_that_would_run_the_model_here(model_path, stack):
    pytest.importorskip("openvino")
    sides, left_out = open_serving(model_path, None, 1, stack)
    assert list(sides)[:2] == ["onnxruntime", "openvino"]
    assert left_out == {}
    assert all(side.backend.name.startswith(name) for name, side in sides.items() if name != "cuda")


def test_one_that_cannot_run_it_is_left_out_with_its_reason(network, graph, tmp_path, stack):
    path = tmp_path / "model.onnx"
    card = replace(model_card(network), precision="bf16")
    path.write_bytes(with_card(lower_precision(graph, "bf16"), card))
    try:
        sides, left_out = open_serving(path, None, 1, stack)
    except MissingError as error:  # there is no processor with bfloat16 here: then none can
        left_out, sides = {"onnxruntime": str(error)}, {}
    assert "onnxruntime" not in sides
    assert "can't compute in bfloat16" in left_out["onnxruntime"]


@pytest.mark.parametrize(("names", "error"), [("cuda", MissingError), (["onnxrunntime"], UsageError), ([], UsageError)])
def test_what_is_asked_for_is_had_or_an_error(names, error, model_path, stack):
    with pytest.raises(error):
        open_serving(model_path, names, 1, stack)


def test_one_refusal_is_enough_and_says_where_it_passes(network, model_path, pictures):
    good = check_parity(network, model_path, pictures, min_bits=100)
    bad = replace(good, flipped=3, flip_rate=0.03, backend="openvino 1 (CPU)")
    require_all({"onnxruntime": good}, 1e-3, None)
    with pytest.raises(ParityError, match=r"on openvino 1 .* passes in onnxruntime: --backend onnxruntime leaves the"):
        require_all({"onnxruntime": good, "openvino": bad}, 1e-3, None)
    with pytest.raises(ParityError) as refused:
        require_all({"openvino": bad}, 1e-3, None)
    assert "--backend" not in str(refused.value)
