import contextlib
import importlib.metadata
import os
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from queryopt.card import FORMAT_KEY, ModelCard, fingerprint
from queryopt.errors import CheckpointError, DataError, MissingError, ModelError, ParityError, UsageError
from queryopt.export import export_onnx
from queryopt.export.onnx import build_graph, model_card
from queryopt.export.pictures import parity_pictures
from queryopt.images import load_image
from queryopt.runtime import Hasher
from queryopt.train import preset_config, train
from queryopt.train.checkpoint import load_checkpoint
from queryopt.train.data import load_image_folder, split_validation
from queryopt.train.inputs import to_input

from ..independent_reader import read_model


def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def card_of(path):
    return ModelCard.from_metadata(session_of(path).get_modelmeta().custom_metadata_map, str(path))


def test_inputs_and_outputs_are_those_of_the_contract(model_path):
    session = session_of(model_path)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    ]
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("codes", "tensor(uint8)", ["batch", 2]),
        ("logits", "tensor(float)", ["batch", 12]),
    ]


def test_any_batch_gives_each_picture_the_same_code(model_path, pictures, network):
    session = session_of(model_path)
    preprocessing = card_of(model_path).preprocessing
    pixels = np.stack([load_image(p, preprocessing) for p in pictures] * 3)[:17]
    whole = session.run(None, {"images": pixels})
    assert len(np.unique(whole[0], axis=0)) > 1
    for batch in (1, 3, 17):
        codes, logits = session.run(["codes", "logits"], {"images": pixels[:batch]})
        np.testing.assert_array_equal(codes, whole[0][:batch])
        np.testing.assert_allclose(logits, whole[1][:batch], atol=1e-5)


def test_the_file_is_whole_and_says_nothing_of_the_machine_that_made_it(model_path, graph):
    model = onnx.load(model_path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(t.external_data or t.data_location for t in model.graph.initializer)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert not {"Dropout", "BatchNormalization"} & {n.op_type for n in model.graph.node}
    # TensorRT takes a uint8 input into a Cast only.
    assert [n.op_type for n in model.graph.node if "images" in n.input] == ["Cast"]
    for trace in (rb"\.py\b", rb"stack_trace", rb"namespace", rb"site-packages"):
        assert not re.search(trace, model_path.read_bytes())


def test_equal_networks_give_equal_graphs(network, graph):
    assert build_graph(network).SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)


def test_export_writes_a_model_with_a_full_card_beside_the_checkpoint(network, save_run, picture_folder):
    run = save_run(network)
    result = export_onnx(run, pictures=picture_folder, threads=1)
    assert result.path == run / "model.onnx"
    assert result.size == result.path.stat().st_size
    assert result.replaced is None
    assert sorted(p.name for p in run.iterdir()) == ["best.safetensors", "model.onnx"]
    card = card_of(result.path)
    assert card == result.card
    assert (card.bits, card.backbone, card.precision) == (12, "tiny", "fp32")
    assert card.logit_scale == pytest.approx(network.logit_scale)
    assert card.fingerprint == fingerprint(network.inference_weights(), card.preprocessing, 12)
    assert {"queryopt", "torch", "onnx", "onnxscript", "onnxruntime"} <= set(card.versions)
    assert card.parity["flipped"] == 0
    assert card.parity["bits_compared"] >= 20_000
    assert card.parity["pictures"] == 8
    assert session_of(result.path).get_modelmeta().custom_metadata_map[FORMAT_KEY] == "1"


def test_a_loaded_file_exports_alone_and_without_the_gate_its_card_says_so(network, save_run, tmp_path):
    checkpoint = load_checkpoint(save_run(network) / "best.safetensors")
    (tmp_path / "elsewhere").mkdir()
    result = export_onnx(checkpoint, tmp_path / "elsewhere", parity=False)
    assert result.path == tmp_path / "elsewhere" / "model.onnx"
    assert result.parity is None
    assert card_of(result.path).parity is None


def test_a_refused_export_leaves_the_old_model_and_nothing_else(unsure_network, model_path, save_run, picture_folder):
    run = save_run(unsure_network)
    (run / "model.onnx").write_bytes(model_path.read_bytes())
    with pytest.raises(ParityError, match="bits differ"):
        export_onnx(run, pictures=picture_folder)
    assert (run / "model.onnx").read_bytes() == model_path.read_bytes()
    assert sorted(p.name for p in run.iterdir()) == ["best.safetensors", "model.onnx"]


def test_the_old_model_is_there_until_the_new_one_is(network, model_path, save_run, picture_folder):
    run = save_run(network)
    before = model_path.read_bytes()
    (run / "model.onnx").write_bytes(before)
    seen = []

    @contextlib.contextmanager
    def progress(description, total, unit):
        yield lambda count=1, note=None: seen.append((run / "model.onnx").read_bytes() == before)

    result = export_onnx(run, pictures=picture_folder, progress=progress)
    assert seen
    assert all(seen)
    assert result.replaced == result.card.fingerprint
    assert (run / "model.onnx").read_bytes() != before


def test_an_interrupted_export_leaves_nothing_behind(network, save_run, picture_folder):
    run = save_run(network)

    def progress(description, total, unit):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_onnx(run, pictures=picture_folder, progress=progress)
    assert [p.name for p in run.iterdir()] == ["best.safetensors"]


def test_a_model_that_is_not_as_it_was_exported_is_refused(network, save_run, tmp_path):
    content = bytearray(export_onnx(save_run(network), parity=False).path.read_bytes())
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(content)
    Hasher(damaged).close()
    assert read_model(damaged)["digest"]
    for place in (len(content) // 4, len(content) // 2, content.index(b'"bits": 12') + 8):
        content[place] ^= 1  # a weight, another, and the length in the card
        damaged.write_bytes(content)
        with pytest.raises(ModelError, match=r"damaged.onnx: the file is not as qo-export wrote it"):
            Hasher(damaged)
        content[place] ^= 1


def test_attention_is_an_output_on_request(network, save_run, pictures):
    path = export_onnx(save_run(network), parity=False, explain=True).path
    session = session_of(path)
    assert [(o.name, o.shape) for o in session.get_outputs()][2] == ("attention", ["batch", 12, network.config.tokens])
    preprocessing = card_of(path).preprocessing
    pixels = np.stack([load_image(p, preprocessing) for p in pictures[:3]])
    attention = session.run(["attention"], {"images": pixels})[0]
    with torch.inference_mode():
        _, expected = network.forward_with_attention(to_input(pixels, preprocessing))
    np.testing.assert_allclose(attention, expected, atol=1e-5)
    assert expected.std(dim=2).min() > 1e-3


def test_folded_or_not_it_is_the_same_checkpoint_with_the_same_codes(network, save_run, pictures, tmp_path):
    run = save_run(network)
    results = [export_onnx(run, tmp_path / f"{fold}.onnx", parity=False, fold=fold) for fold in (True, False)]
    assert [result.strip.graph for result in results] == ["folded", "plain"]
    assert results[0].fold.after == results[0].strip.multiply_adds
    assert results[1].fold is None
    assert len({result.card.fingerprint for result in results}) == 1
    pixels = np.stack([load_image(p, results[0].card.preprocessing) for p in pictures])
    folded, plain = (session_of(result.path).run(None, {"images": pixels}) for result in results)
    np.testing.assert_array_equal(folded[0], plain[0])
    np.testing.assert_allclose(folded[1], plain[1], atol=1e-5)
    constants = [{t.name for t in onnx.load(result.path).graph.initializer} for result in results]
    assert "std" in constants[1] - constants[0]
    assert "network.decoder.scores.queries" in constants[0] - constants[1]


def test_a_file_that_is_no_model_is_never_overwritten(network, save_run, tmp_path):
    run = save_run(network)
    foreign = tmp_path / "thesis.onnx"
    foreign.write_text("ten years of work")
    with pytest.raises(UsageError, match=r"thesis\.onnx: the file there is no model that this queryopt knows"):
        export_onnx(run, foreign, parity=False)
    assert foreign.read_text() == "ten years of work"


def test_a_fifo_in_the_way_is_refused_and_not_waited_for(network, save_run, tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(UsageError, match=r"pipe\.onnx"):
        export_onnx(save_run(network), tmp_path / "pipe.onnx", parity=False)


@pytest.mark.parametrize("version", ["1.20.1", "1.9.0"])
def test_an_onnx_that_follows_external_data_out_of_its_folder_is_refused(network, save_run, monkeypatch, version):
    monkeypatch.setattr(onnx, "__version__", version)
    with pytest.raises(MissingError, match=r"pip install 'onnx>=1\.21'"):
        export_onnx(save_run(network), parity=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.pt", "ends in .onnx"),
        ("no/such/folder.onnx", "no folder"),
        ("/proc/model.onnx", r"^/proc/model\.onnx: can't be written"),
    ],
)
def test_a_bad_output_path_is_refused_at_once(network, save_run, tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        export_onnx(save_run(network), tmp_path / name, parity=False)


def test_no_pictures_to_be_had_says_to_pass_some(network, save_run, tmp_path):
    with pytest.raises(DataError, match="--images FOLDER"):
        export_onnx(save_run(network, "a"))
    with pytest.raises(DataError, match=r"moved.*--images FOLDER"):
        export_onnx(save_run(network, "b", data=str(tmp_path / "moved")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in this folder"):
        export_onnx(save_run(network, "c"), pictures=tmp_path / "empty")


def test_the_run_s_own_pictures_are_compared_by_default(network, save_run, picture_folder):
    options = {"data": str(picture_folder), "test_fraction": 0.0, "seed": 3}
    found = parity_pictures(load_checkpoint(save_run(network, "a", validation_fraction=0.25, **options)))
    _, drawn = split_validation(load_image_folder(picture_folder, seed=3, test_fraction=0).train, 0.25, 3)
    assert (found.paths, found.source) == ([drawn.path(i) for i in range(2)], "the run's validation pictures")
    assert found.labels == [path.parent.name for path in found.paths]
    found = parity_pictures(load_checkpoint(save_run(network, "b", validation_fraction=0.0, **options)))
    assert (len(found.paths), found.source) == (8, "the run's training pictures")


def test_a_run_that_was_trained_on_a_relative_path_exports_from_anywhere(picture_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(picture_folder.parent)
    config = preset_config("tiny", data=picture_folder.name, iterations=0, test_fraction=0.0, validation_fraction=0.25)
    train(config, out=tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    found = parity_pictures(load_checkpoint("run"))
    assert found.source == "the run's validation pictures"
    assert found.paths
    assert all(path.is_file() and path.is_relative_to(picture_folder) for path in found.paths)


def test_a_bad_checkpoint_is_a_clear_error(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match=r"best\.safetensors"):
        export_onnx(tmp_path)


def test_versions_are_known_where_a_package_came_under_another_name(network, monkeypatch):
    def version(name):  # onnxruntime-gpu brings the module onnxruntime and no distribution of that name
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert model_card(network).versions["onnxruntime"] == onnxruntime.__version__


@pytest.mark.parametrize("option", [{"threads": -1}, {"batch": 0}, {"max_flip_rate": 2.0}])
def test_a_value_that_makes_no_sense_is_refused_at_once(network, save_run, option):
    with pytest.raises(UsageError, match=r"is (-1|0|2\.0)"):
        export_onnx(save_run(network), **option)
