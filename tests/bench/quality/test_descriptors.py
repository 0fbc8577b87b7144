"""Descriptions of pictures are what plain loops make of their pixels, and stay with their rows."""

from pathlib import Path

import numpy as np
import torch

from queryopt.bench.quality.descriptors import HISTOGRAM, TRUNK, Describer, colour_histograms
from queryopt.bench.quality.labelled_codes import LabelledCodes, hash_network
from queryopt.bench.quality.pictures import labelled_folder
from queryopt.bench.quality.rankings import behind_colours, measure_baselines
from queryopt.card import Preprocessing
from queryopt.images import load_image
from queryopt.metrics import retrieval_metrics
from queryopt.progress import no_progress
from queryopt.train.inputs import to_input
from queryopt.train.methods import build_network
from queryopt.train.presets import preset_config

DATA = Path(__file__).parents[2] / "data"


def test_a_histogram_counts_eight_levels_of_each_channel():
    pixels = np.zeros((2, 2, 2, 3), np.uint8)
    pixels[0, 0] = (255, 0, 0), (224, 31, 0)  # the same colour, two of four
    pixels[1] = (31, 32, 64)
    found = colour_histograms(pixels) ** 2
    assert found.shape == (2, 512)
    np.testing.assert_allclose(found[0, [0, 7 * 64]], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(found[1, 1 * 8 + 2], 1, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_a_runs_trunk_is_its_last_stage_whichever_way_it_is_looked_at():
    network = build_network(preset_config("tiny").network).eval()
    size = network.config.preprocessing
    images, _ = labelled_folder(DATA / "pictures")
    hashed = hash_network(network, images, no_progress, "pictures", threads=1, batch=3, describer=Describer())
    pixels = np.stack([load_image(path, size) for path in hashed.paths])
    with torch.inference_mode():
        expected = network.backbone(to_input(pixels, size))[-1].mean(dim=(2, 3)).numpy()
    alone = Describer(network, threads=1)
    alone.expect(size)
    alone.add(pixels[:5])
    alone.add(pixels[5:])
    for made in (hashed.descriptors, alone.take()):
        np.testing.assert_allclose(made[TRUNK], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(made[HISTOGRAM], colour_histograms(pixels))
    assert alone.take() == {}
    alone.expect(Preprocessing.for_size(size.image_size + 32))
    alone.add(pixels)
    assert (list(alone.take()), list(alone.left_out)) == ([HISTOGRAM], [TRUNK])


def test_codes_that_find_less_than_colours_are_said_to():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([f"{n}" for n in range(10)]), 12)
    colours = np.eye(10, dtype=np.float32)[labels.astype(int)]
    paths = tuple(f"/{row}".encode() for row in range(120))

    def side(rows, codes):
        described = {HISTOGRAM: colours[rows]}
        return LabelledCodes(12, codes, labels[rows], tuple(paths[row] for row in rows), {}, descriptors=described)

    rows, others = np.arange(0, 120, 2), np.arange(1, 120, 2)
    gallery, queries = (side(part, rng.integers(0, 16, (60, 2), np.uint8)) for part in (rows, others))
    baselines = measure_baselines(gallery, queries, (5,), "seen")
    [colour] = baselines
    assert (colour.metrics.map, colour.metrics.precision_at) == (1, {1: 1, 5: 1})
    codes = retrieval_metrics(queries.codes, gallery.codes, 12, queries.labels, gallery.labels)
    said = behind_colours(codes, baselines)
    assert said.startswith("the codes find less than a histogram of 512 colours")
    assert f"mAP {codes.map:.3f} against 1.000" in said
    assert behind_colours(colour.metrics, baselines) == ""
    few = side(others[:20], queries.codes[:20])
    of_few = retrieval_metrics(few.codes, gallery.codes, 12, few.labels, gallery.labels)
    assert behind_colours(of_few, measure_baselines(gallery, few, (1,), "seen")) == ""
