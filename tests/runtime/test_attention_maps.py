import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryopt.errors import ModelError
from queryopt.runtime.attention_maps import attention_grids, merge_attention


@given(image_size=st.integers(33, 560), stride=st.sampled_from([8, 16]))
def test_the_grids_of_every_image_size_are_known_from_their_tokens(image_size, stride):
    fine, coarse = -(-image_size // stride), -(-image_size // (2 * stride))  # as the backbones' strides make them
    assert attention_grids(fine**2 + coarse**2) == (fine, coarse)


def test_without_fusion_there_is_one_grid():
    assert attention_grids(49) == (7,)
    np.testing.assert_array_equal(merge_attention(np.arange(49.0))[1], np.arange(7, 14))


@pytest.mark.parametrize("tokens", [0, 2, 3, 244, 246])
def test_other_numbers_of_tokens_are_refused(tokens):
    with pytest.raises(ModelError, match=f"over {tokens} tokens"):
        attention_grids(tokens)


@given(fine=st.integers(2, 20), seed=st.integers(0, 99))
def test_a_map_keeps_the_weight_of_both_levels_where_it_lay(fine, seed):
    coarse = (fine + 1) // 2
    attention = np.random.default_rng(seed).dirichlet(np.ones(fine**2 + coarse**2), size=(2, 3)).astype(np.float32)
    maps = merge_attention(attention)
    assert maps.shape == (2, 3, fine, fine)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, rtol=1e-5)
    # The weight of every coarse cell is in the 2 x 2 fine cells below it (or what the picture has of them).
    padded = np.zeros((2, 3, 2 * coarse, 2 * coarse), np.float32)
    padded[..., :fine, :fine] = maps
    low = np.zeros_like(padded)
    low[..., :fine, :fine] = attention[..., : fine**2].reshape(2, 3, fine, fine)

    def sums(x):
        return x.reshape(2, 3, coarse, 2, coarse, 2).sum(axis=(3, 5))

    np.testing.assert_allclose(
        sums(padded) - sums(low), attention[..., fine**2 :].reshape(2, 3, coarse, coarse), atol=1e-6
    )


def test_a_coarse_cell_is_spread_evenly():
    attention = np.zeros(245, np.float32)
    attention[196 + 7 * 6 + 6] = 1  # the last cell of 7 x 7
    expected = np.zeros((14, 14), np.float32)
    expected[12:, 12:] = 0.25
    np.testing.assert_array_equal(merge_attention(attention), expected)
