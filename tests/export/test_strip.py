import contextlib

import numpy as np
import onnx
import pytest
import torch

from queryopt.codes import pack_codes
from queryopt.errors import ParityError, UsageError
from queryopt.export.fold import REWRITES, fold, query_forms
from queryopt.export.onnx import build_graph, model_card, with_card
from queryopt.export.strip import InferenceNetwork, check_strip, multiply_adds
from queryopt.runtime.backends import open_backend
from queryopt.train.network import roll_queries


def check(network, model, folder, folded=None):
    path = folder / "candidate.onnx"
    path.write_bytes(with_card(model, model_card(network)))
    with contextlib.closing(open_backend(path, threads=1)) as session:
        return check_strip(network, model, session, folded)


def random_images(network, count=3):
    size = network.config.image_size
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("bits", [1, 7, 8, 12, 33, 64])
def test_codes_are_the_signs_of_the_logits_packed_by_the_contract(make_network, bits):
    network = make_network(bits)
    with torch.inference_mode():
        codes, logits = InferenceNetwork(network)(random_images(network, 16))
    assert codes.dtype == torch.uint8
    assert logits.shape == (16, bits)
    np.testing.assert_array_equal(codes.numpy(), pack_codes(logits.numpy() >= 0))


def test_zero_gives_bit_1_and_nan_bit_0(network):
    pack = InferenceNetwork(network)._pack
    logits = torch.full((1, 12), -1.0)
    logits[0, 0], logits[0, 1], logits[0, 9], logits[0, 11] = 0.0, -0.0, float("nan"), float("inf")
    assert pack(logits).tolist() == [[0b11, 0b1000]]


def test_attention_sums_to_one_over_the_tokens_of_each_bit(network):
    with torch.inference_mode():
        codes, logits, attention = InferenceNetwork(network, explain=True)(random_images(network))
        plain = InferenceNetwork(network)(random_images(network))
    assert attention.shape == (3, 12, network.config.tokens)
    np.testing.assert_allclose(attention.sum(2), 1, atol=1e-5)
    np.testing.assert_array_equal(codes, plain[0])
    np.testing.assert_array_equal(logits, plain[1])


def test_a_network_without_queries_has_nothing_to_explain_with(make_network):
    with pytest.raises(UsageError, match="without queries"):
        InferenceNetwork(make_network(queries=False), explain=True)


def test_the_proof_reports_what_was_taken_away(network, graph, tmp_path):
    report = check(network, graph, tmp_path)
    assert report.branches == 8
    assert report.flipped == 0
    assert report.max_logit_difference < 1e-5
    assert report.multiply_adds_network == multiply_adds(network, 1)
    # Seven more copies of 12 queries: each its projections, attention and feed-forward block, and the head.
    dim, tokens, feedforward = 32, network.config.tokens, 64
    each = 2 * dim * dim + 2 * tokens * dim + 2 * dim * feedforward + dim
    assert report.multiply_adds_training - report.multiply_adds_network == 7 * 12 * each
    # The exporter folds the product of two constants, the queries and their projection, in so small a network.
    assert report.multiply_adds in (report.multiply_adds_network, report.multiply_adds_network - 12 * dim * dim)


def test_a_graph_that_kept_the_branches_is_refused(network, tmp_path, monkeypatch):
    class Unstripped(InferenceNetwork):
        def forward(self, images):
            x = ((images.to(torch.float32) / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
            logits = self.network(x, branches=2)[:, :12]
            return self._pack(logits), logits

    monkeypatch.setattr("queryopt.export.onnx.InferenceNetwork", Unstripped)
    model = build_graph(network)
    with pytest.raises(ParityError, match=r"multiply-adds|rolled queries"):
        check(network, model, tmp_path)


def test_the_proof_holds_for_a_folded_graph_and_says_that_it_is_one(make_network, tmp_path):
    network = make_network(3, dim=16, feedforward=32)
    folded, saved = fold(network)
    report = check(network, build_graph(folded), tmp_path, folded)
    assert (report.graph, report.flipped) == ("folded", 0)
    assert report.multiply_adds == report.multiply_adds_network == saved.after < multiply_adds(network, 1)
    assert report.max_logit_difference < 1e-5


def test_a_folded_graph_with_more_than_the_folded_network_is_refused(make_network, tmp_path):
    # Folding saves more than a copy of the queries costs: the plain network's count would be no limit.
    network = make_network(3, dim=16, feedforward=32)
    folded, _ = fold(network)
    few = {name: REWRITES[name] for name in REWRITES if "gather" not in name}
    with pytest.raises(ParityError, match="the folded inference network"):
        check(network, build_graph(fold(network, few)[0]), tmp_path, folded)


@pytest.mark.parametrize("form", [0, 1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_rolled_query_left_in_a_constant_is_found(network, graph, tmp_path, transposed, form):
    copies = roll_queries(network.queries.detach(), network.config.branches)[36:48]
    rolled = query_forms(network, copies)[form].astype(np.float32)
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.ascontiguousarray(rolled.T if transposed else rolled), "left")
    )
    with pytest.raises(ParityError, match="rolled queries \\(in 'left'\\)"):
        check(network, model, tmp_path)


def test_the_proof_names_the_parts_that_only_training_uses(make_network, trace, network, graph, tmp_path):
    assert check(network, graph, tmp_path).stripped == {"auxiliary branch": "7 rolled copies of 12 queries"}
    plain = make_network(branches=1)
    assert check(plain, trace(plain), tmp_path).stripped == {}
    classifying = make_network(classes=5)
    assert check(classifying, trace(classifying), tmp_path).stripped == {
        "auxiliary branch": "7 rolled copies of 12 queries",
        "classification head": "12 bits -> 5 classes",
    }


@pytest.mark.parametrize(("bits", "classes"), [(12, 5), (4, 30), (1, 3)])
@pytest.mark.parametrize("transposed", [False, True])
def test_class_weights_left_in_a_constant_are_found(make_network, trace, tmp_path, bits, classes, transposed):
    network = make_network(bits, classes=classes)
    model = trace(network)
    weight = network.classifier.weight.detach().numpy()
    weight = np.ascontiguousarray(weight.T if transposed else weight)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "left"))
    with pytest.raises(ParityError, match=r"class weights \(in 'left'\): the classification head was not stripped"):
        check(network, model, tmp_path)


def test_a_classification_head_changes_no_model(make_network, network, graph):
    classifying = make_network(classes=5)
    classifying.load_state_dict({**classifying.state_dict(), **network.state_dict()})
    model = build_graph(classifying)
    assert model.SerializeToString(deterministic=True) == graph.SerializeToString(deterministic=True)
    assert model_card(classifying).fingerprint == model_card(network).fingerprint


def test_another_network_s_graph_is_refused(make_network, graph, tmp_path):
    with pytest.raises(ParityError, match="differ from the training network's first 12"):
        check(make_network(seed=1), graph, tmp_path)


def test_a_graph_whose_codes_are_right_and_whose_logits_are_not_is_refused(make_network, graph, tmp_path):
    other = make_network()
    with torch.no_grad():
        other.head.weight *= 1.01
    with pytest.raises(ParityError, match="0 sure bits flipped"):
        check(other, graph, tmp_path)


def test_more_branches_than_distinct_rolls_are_no_false_alarm(make_network, graph, tmp_path):
    # 70 rolls of a width of 32 name the query itself again; the graph is the same whatever the branches.
    assert check(make_network(branches=70), graph, tmp_path).branches == 70


@pytest.mark.parametrize("options", [{"fusion": False}, {"queries": False}, {"image_size": 40, "dim": 16}])
@pytest.mark.parametrize("kind", ["plain", "folded"])
def test_ablations_and_odd_sizes_export_and_prove(make_network, tmp_path, options, kind):
    network = make_network(**options)
    folded = fold(network)[0] if kind == "folded" else None
    report = check(network, build_graph(folded or network), tmp_path, folded)
    assert (report.flipped, report.graph) == (0, kind)
