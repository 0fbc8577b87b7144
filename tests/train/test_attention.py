"""Attention and its layers, against torch's own modules on the same weights."""

import math
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from queryopt.train.attention import CrossAttentionLayer, EncoderLayer, MultiHeadAttention

M = TypeVar("M", bound=nn.Module)
DIM, HEADS, WIDTH = 32, 4, 64


def randomised(module: M) -> M:
    """Biases and norms away from their initial zeros and ones, so that a swapped one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    stacked = (ours.query, ours.key, ours.value)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([part.weight for part in stacked]),
            "in_proj_bias": torch.cat([part.bias for part in stacked]),
            "out_proj.weight": ours.output.weight,
            "out_proj.bias": ours.output.bias,
        }
    )


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_attention_equals_torchs() -> None:
    ours = randomised(MultiHeadAttention(DIM, HEADS))
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    copy_attention(ours, theirs)
    queries, keys, values = random(3, 5, DIM), random(3, 7, DIM, seed=2), random(3, 7, DIM, seed=3)
    output, attention = ours(queries, keys, values)
    expected, expected_attention = theirs(queries, keys, values, average_attn_weights=False)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(attention, expected_attention)


@torch.no_grad()
def test_one_set_of_queries_serves_every_image() -> None:
    attention = randomised(MultiHeadAttention(DIM, HEADS))
    queries, tokens = random(1, 5, DIM), random(3, 7, DIM, seed=2)
    shared, _ = attention(queries, tokens, tokens)
    expanded, _ = attention(queries.expand(3, -1, -1), tokens, tokens)
    torch.testing.assert_close(shared, expanded)


@torch.no_grad()
def test_encoder_layer_equals_torchs_where_positions_are_zero() -> None:
    ours = randomised(EncoderLayer(DIM, HEADS, WIDTH))
    theirs = nn.TransformerEncoderLayer(DIM, HEADS, WIDTH, dropout=0.0, batch_first=True)
    copy_attention(ours.attention, theirs.self_attn)
    for mine, other in (
        (ours.feedforward.expand, theirs.linear1),
        (ours.feedforward.reduce, theirs.linear2),
        (ours.attention_norm, theirs.norm1),
        (ours.feedforward_norm, theirs.norm2),
    ):
        other.load_state_dict(mine.state_dict())
    tokens = random(2, 7, DIM)
    torch.testing.assert_close(ours(tokens, torch.zeros(7, DIM)), theirs(tokens))


@torch.no_grad()
def test_positions_reach_queries_and_keys_but_not_values() -> None:
    layer = randomised(EncoderLayer(DIM, HEADS, WIDTH))
    tokens, positions = random(2, 7, DIM), random(7, DIM, seed=2)
    placed = tokens + positions
    attended, _ = layer.attention(placed, placed, tokens)
    hidden = layer.attention_norm(tokens + attended)
    torch.testing.assert_close(layer(tokens, positions), layer.feedforward_norm(hidden + layer.feedforward(hidden)))
    assert not torch.allclose(layer(tokens, positions), layer(tokens, torch.zeros(7, DIM)))


@torch.no_grad()
def test_decoder_queries_do_not_see_each_other() -> None:
    layer = randomised(CrossAttentionLayer(DIM, HEADS, WIDTH))
    queries, memory, positions = random(5, DIM), random(2, 7, DIM, seed=2), random(7, DIM, seed=3)
    output, attention = layer(queries, memory, positions)
    alone, alone_attention = layer(queries[2:3], memory, positions)
    torch.testing.assert_close(output[:, 2:3], alone)
    torch.testing.assert_close(attention[:, :, 2:3], alone_attention)


@torch.no_grad()
def test_decoder_layer_starts_from_a_zero_target_and_ends_with_one_more_norm() -> None:
    layer = randomised(CrossAttentionLayer(DIM, HEADS, WIDTH))
    queries, memory, positions = random(5, DIM), random(2, 7, DIM, seed=2), random(7, DIM, seed=3)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    copy_attention(layer.attention, theirs)
    attended, _ = theirs(queries.expand(2, -1, -1), memory + positions, memory)
    target = layer.attention_norm(attended)
    target = layer.feedforward_norm(target + layer.feedforward(target))
    torch.testing.assert_close(layer(queries, memory, positions)[0], layer.final_norm(target))


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_matrices_start_as_torchs_stacked_one_does(part: str) -> None:
    torch.manual_seed(0)
    linear = getattr(MultiHeadAttention(128, 8), part)
    bound = math.sqrt(6 / (4 * 128))
    assert 0.97 * bound < linear.weight.abs().max().item() <= bound
    assert not linear.bias.any()
