import contextlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emulated_cuda import EmulatedRuntime
from emulated_tensorrt import EmulatedBackend
from queryopt.card import Preprocessing
from queryopt.codes import pack_codes, unpack_codes
from queryopt.errors import DataError, MismatchError, ParityError, UsageError
from queryopt.export import check_parity
from queryopt.export.onnx import model_card, with_card
from queryopt.export.parity import MIN_BITS, flip_rate_upper_bound, top_k_overlap
from queryopt.export.pictures import parity_views
from queryopt.images import load_image
from queryopt.metrics import retrieval_metrics
from queryopt.runtime import Hasher
from queryopt.runtime.tensorrt.profile import Profile

P = Preprocessing.for_size(32)


@pytest.mark.parametrize(
    ("flipped", "compared", "bound"),
    [(0, 20_000, 1 - 0.05 ** (1 / 20_000)), (1, 10, 0.394163), (5, 100, 0.102253), (10, 10, 1.0), (0, 0, 1.0)],
)
def test_the_bound_is_clopper_and_pearson_s(flipped, compared, bound):
    assert flip_rate_upper_bound(flipped, compared) == pytest.approx(bound, rel=1e-5)


@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=40)
def test_at_the_bound_so_few_flips_have_the_probability_that_was_asked_for(compared, flipped, confidence):
    flipped = min(flipped, compared - 1)
    p = Fraction(flip_rate_upper_bound(flipped, compared, confidence))
    tail = sum(math.comb(compared, i) * p**i * (1 - p) ** (compared - i) for i in range(flipped + 1))
    assert float(tail) == pytest.approx(1 - confidence, rel=1e-9)


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(UsageError, match="not a rate"):
        flip_rate_upper_bound(3, 2)


def overlap_by_hand(reference, codes, k):
    def top(bits, row):
        order = sorted((int((bits[row] != bits[i]).sum()), i) for i in range(len(bits)) if i != row)
        return {i for _, i in order[:k]}

    return np.mean([len(top(reference, r) & top(codes, r)) / k for r in range(len(reference))])


def test_overlap_is_that_of_sorting_by_distance_and_id():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 2, (90, 12))
    codes = np.where(rng.random(reference.shape) < 0.05, 1 - reference, reference)
    got = top_k_overlap(pack_codes(reference), pack_codes(codes), 12)
    assert 0.3 < got < 1
    assert got == pytest.approx(overlap_by_hand(reference, codes, 10))


def test_overlap_of_equal_codes_is_one_also_of_few_and_of_one():
    codes = pack_codes(np.random.default_rng(0).integers(0, 2, (5, 64)))
    assert top_k_overlap(codes, codes, 64) == 1
    assert top_k_overlap(codes[:1], codes[:1], 64) == 1


def test_views_start_with_the_test_crop_and_go_round_evenly(pictures):
    views = list(parity_views(pictures, P, 27, {}))
    indices = [index for index, _ in views]
    counts = np.bincount(indices, minlength=8)
    assert len(views) == 27
    assert set(counts) == {3, 4}
    for picture in range(8):
        own = [pixels for index, pixels in views if index == picture]
        np.testing.assert_array_equal(own[0], load_image(pictures[picture], P))
        np.testing.assert_array_equal(own[1], own[0][:, ::-1])
        assert len({pixels.tobytes() for pixels in own}) == len(own)
    again = list(parity_views(pictures, P, 27, {}))
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(views, again, strict=True))


def test_of_many_pictures_an_even_spread_is_taken(pictures):
    assert [index for index, _ in parity_views(pictures, P, 4, {})] == [0, 2, 4, 6]


def test_unreadable_pictures_are_named_and_made_up_for(pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    failures = {}
    views = list(parity_views([pictures[0], broken, tmp_path / "gone.png"], P, 10, failures))
    assert [index for index, _ in views] == [0] * 10
    assert set(failures) == {str(broken), str(tmp_path / "gone.png")}
    assert len({pixels.tobytes() for _, pixels in views}) == 10


def test_pictures_of_one_pixel_and_of_extreme_shape_give_views(tmp_path):
    paths = []
    for size in [(1, 1), (1, 500), (500, 1)]:
        paths.append(tmp_path / f"{size[0]}x{size[1]}.png")
        Image.new("RGB", size, (10, 200, 30)).save(paths[-1])
    assert [pixels.shape for _, pixels in parity_views(paths, P, 12, {})] == [(32, 32, 3)] * 12


def test_a_good_model_agrees_on_at_least_20000_bits(network, model_path, pictures):
    report = check_parity(network, model_path, pictures, threads=1)
    assert report.bits_compared == report.views * 12 >= MIN_BITS
    assert (report.flipped, report.flip_rate, report.pictures, report.top10_overlap) == (0, 0.0, 8, 1.0)
    assert report.flip_rate_upper_95 < 1.5e-4
    assert 1 < report.distinct_codes <= report.views
    assert 0 < report.max_logit_difference < 1e-5
    assert report.backend.startswith("onnxruntime")
    assert report.flipped_sure == 0
    report.require(0.0)


def test_a_run_folder_will_do_for_the_network(network, model_path, pictures, save_run):
    assert check_parity(save_run(network), model_path, pictures, min_bits=100).flipped == 0


def test_a_perturbed_model_is_noticed_and_refused(network, perturbed_path, pictures):
    report = check_parity(network, perturbed_path, pictures, min_bits=2000, threads=1)
    assert report.flipped >= report.flipped_sure > 0
    assert report.flip_rate == report.flipped / report.bits_compared < report.flip_rate_upper_95
    assert report.max_logit_difference > 1e-3
    assert report.top10_overlap < 1
    with pytest.raises(ParityError, match=r"of 2,004 bits differ .* largest logit difference"):
        report.require(1e-3)
    report.require(1.0)


def test_bits_that_rounding_flips_are_told_from_those_that_something_else_flips(
    unsure_network, trace, pictures, tmp_path
):
    path = tmp_path / "model.onnx"
    path.write_bytes(with_card(trace(unsure_network), model_card(unsure_network)))
    report = check_parity(unsure_network, path, pictures, min_bits=2000, threads=1)
    assert report.flipped > 0
    assert report.flipped_sure == 0
    with pytest.raises(ParityError, match="0 of the flipped bits are not"):
        report.require(1e-3)


def test_a_graph_that_normalises_otherwise_is_noticed(network, graph, pictures, tmp_path):
    model = type(graph)()
    model.CopyFrom(graph)
    mean = next(t for t in model.graph.initializer if t.name.endswith("mean"))
    mean.raw_data = np.zeros(3, np.float32).tobytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(with_card(model, model_card(network)))
    assert check_parity(network, path, pictures, min_bits=500).max_logit_difference > 1e-3


def test_logits_that_are_not_finite_are_refused(make_network, trace, pictures, tmp_path):
    broken = make_network()
    path = tmp_path / "model.onnx"
    with torch.no_grad():
        broken.head.weight.fill_(1.0)
        card = model_card(broken)
        broken.head.weight[0, 0] = float("nan")
        path.write_bytes(with_card(trace(broken), card))
        broken.head.weight.fill_(1.0)
    with pytest.raises(ParityError, match="not finite"):
        check_parity(broken, path, pictures, min_bits=200).require(1.0)


def test_the_network_s_mode_is_put_back(make_network, model_path, pictures):
    network = make_network().train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    check_parity(network, model_path, pictures, min_bits=100)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_progress_counts_every_view(network, model_path, pictures):
    seen = []

    @contextlib.contextmanager
    def progress(description, total, unit):
        seen.append(total)
        yield lambda count=1, note=None: seen.append(count)

    check_parity(network, model_path, pictures, min_bits=480, batch=16, progress=progress)
    assert seen == [40, 16, 16, 8]


def test_no_readable_picture_is_an_error_that_says_what_to_do(network, model_path, tmp_path):
    with pytest.raises(DataError, match=r"no picture of 1 .*gone\.png.*--images FOLDER"):
        check_parity(network, model_path, [tmp_path / "gone.png"])


def test_another_code_length_is_refused(make_network, model_path, pictures):
    with pytest.raises(MismatchError, match="12 bits, the network's 16"):
        check_parity(make_network(16), model_path, pictures)


def test_another_checkpoint_is_refused(make_network, model_path, pictures):
    with pytest.raises(MismatchError, match=r"model\.onnx comes from another checkpoint .* than the network"):
        check_parity(make_network(seed=1), model_path, pictures)


def test_two_models_are_compared_without_the_network(model_path, perturbed_path, pictures):
    pytest.importorskip("openvino")
    report = check_parity(model_path, model_path, pictures, backend="openvino", min_bits=2000, threads=1)
    assert report.reference.startswith("onnxruntime")
    assert report.backend.startswith("openvino")
    assert (report.flipped, report.precision, report.reference_precision) == (0, "fp32", "fp32")
    assert check_parity(model_path, perturbed_path, pictures, min_bits=2000).flipped > 0


def test_an_engine_gets_batches_that_its_profile_has(network, model_path, pictures):
    backend = EmulatedBackend(model_path, Profile.of("1,2,3"), EmulatedRuntime())
    report = check_parity(network, backend, pictures, min_bits=12 * 41, batch=20)
    assert (report.views, report.flipped) == (41, 0)
    assert "as if on a GPU" in report.backend
    assert max(backend.engine.done) <= 3
    backend.close()  # an open backend is the caller's


def test_a_checkpoint_runs_in_torch_alone(network, model_path, pictures, save_run):
    with pytest.raises(UsageError, match="a checkpoint runs in PyTorch"):
        check_parity(model_path, save_run(network), pictures, backend="openvino")


@pytest.fixture(scope="module")
def many_pictures(tmp_path_factory):
    """Forty pictures that differ."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(40):
        paths.append(folder / f"{number:02}.png")
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((32, 32)).save(paths[-1])
    return paths


class TestMeanAveragePrecision:
    def test_is_that_of_the_test_crops_against_each_other(self, network, model_path, perturbed_path, pictures):
        labels = [path.parent.name for path in pictures]
        report = check_parity(network, perturbed_path, pictures, labels=labels, min_bits=1000)
        assert report.views > len(pictures)
        values = []
        for path in (model_path, perturbed_path):
            with Hasher(path, "onnxruntime", threads=1) as hasher:
                codes = hasher.hash_files(pictures).codes
            own = np.arange(len(codes))
            values.append(retrieval_metrics(codes, codes, 12, labels, labels, exclude_self=own).map)
        assert (report.map.reference, report.map.model) == pytest.approx(values)
        assert report.map.points == pytest.approx(100 * (values[1] - values[0]))
        assert (report.map.queries, report.map.classes) == (8, 2)
        assert report.map.points_upper_95 is None, "eight pictures are too few to judge by"

    def test_lost_beyond_doubt_is_refused(self, network, perturbed_path, many_pictures):
        with Hasher(perturbed_path, "onnxruntime") as hasher:
            bits = unpack_codes(hasher.hash_files(many_pictures).codes, 12)
        labels = [str(bit) for bit in bits[:, np.abs(bits.mean(axis=0) - 0.5).argmin()]]  # it retrieves these best
        kept = check_parity(network, perturbed_path, many_pictures, labels=labels)
        lost = check_parity(perturbed_path, network, many_pictures, labels=labels)
        assert kept.map.points == pytest.approx(-lost.map.points)
        assert lost.map.points < lost.map.points_upper_95 < 0
        kept.require(1.0, 0.0)
        lost.require(1.0)
        lost.require(1.0, -lost.map.points)
        with pytest.raises(ParityError, match=r"loses .* points of mean average precision .*40 labelled pictures"):
            lost.require(1.0, 0.0)

    def test_needs_two_classes(self, network, model_path, pictures):
        for labels in (["a"] * 8, [None] * 8, list("abcdefgh"), ["a", "b", *[None] * 6]):
            assert check_parity(network, model_path, pictures, labels=labels, min_bits=100).map is None

    def test_pictures_without_a_label_or_that_cannot_be_read_count_for_nothing(self, network, model_path, pictures):
        gone = [pictures[0].parent / "gone.png", *pictures]
        labels = ["a", *[path.parent.name for path in pictures]]
        labels[-1] = None
        report = check_parity(network, model_path, gone, labels=labels, min_bits=100)
        assert report.map.queries == 7

    def test_one_label_each(self, network, model_path, pictures):
        with pytest.raises(UsageError, match="2 labels for 8 pictures"):
            check_parity(network, model_path, pictures, labels=["a", "b"])
