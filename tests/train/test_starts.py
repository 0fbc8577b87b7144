from dataclasses import replace

import numpy as np
import pytest

from queryopt.errors import UsageError
from queryopt.train.data import load_image_folder
from queryopt.train.starts import CODE_STARTS, StartContext, start_codes
from queryopt.train.visual_codes import ImageFeatures


@pytest.fixture
def context(labelled_folder):
    images = load_image_folder(labelled_folder).train
    looks = np.random.default_rng(0).standard_normal((4, 10))[images.labels]
    features = ImageFeatures(looks.astype(np.float32), np.arange(len(images)))
    return StartContext(images, bits=8, branches=3, seed=7, features=lambda: features)


@pytest.mark.parametrize("name", CODE_STARTS)
def test_every_start_has_a_row_a_picture_and_follows_the_seed(context, name):
    codes = start_codes(name, context)
    assert codes.shape == (len(context.images), 24)
    assert codes.dtype == np.float32
    assert np.array_equal(codes, start_codes(name, context))
    other = replace(context, seed=8)
    assert not np.array_equal(codes, start_codes(name, other))


def test_noise_is_normal_and_not_binary(context):
    codes = start_codes("noise", context)
    assert abs(codes.mean()) < 0.1
    assert codes.std() == pytest.approx(1, abs=0.05)


def test_separated_gives_each_class_a_code_of_its_own_in_the_deployed_bits(context):
    codes = start_codes("separated", context)
    assert set(np.unique(codes)) == {-1.0, 1.0}
    per_class = [np.unique(codes[context.images.labels == label][:, :8], axis=0) for label in range(4)]
    assert [len(rows) for rows in per_class] == [1, 1, 1, 1]
    distances = [(per_class[a] != per_class[b]).sum() for a in range(4) for b in range(a)]
    assert min(distances) >= 4


def test_visual_gives_each_class_a_code_and_every_branch_the_same(context):
    codes = start_codes("visual", context)
    rows = [np.unique(codes[context.images.labels == label], axis=0) for label in range(4)]
    assert [len(row) for row in rows] == [1, 1, 1, 1]
    assert len(np.unique(codes[:, :8], axis=0)) == 4
    assert np.array_equal(codes, np.tile(codes[:, :8], 3))
    with pytest.raises(UsageError, match="no trunk"):
        start_codes("visual", replace(context, features=None))


def test_unknown_start_gets_a_suggestion(context):
    with pytest.raises(UsageError, match="did you mean separated"):
        start_codes("separate", context)
