"""Attention, and the one encoder and one decoder layer of the network (DETR's, post-norm).

Attention is written as plain MatMul and Softmax: multiply-add counts, the exporter's folds and the exported attention
then don't depend on what a torch version makes of a fused kernel.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CrossAttentionLayer", "EncoderLayer", "FeedForward", "MultiHeadAttention"]


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with `heads` heads; the arithmetic of torch.nn.MultiheadAttention.

    dim must be divisible by heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        for linear in (self.query, self.key, self.value):
            # The method's Xavier bound is that of one stacked [3 dim, dim] matrix: sqrt(6 / (4 dim)) instead of
            # sqrt(6 / (2 dim)).
            nn.init.xavier_uniform_(linear.weight, gain=math.sqrt(0.5))
            nn.init.zeros_(linear.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from queries to keys, and gather values.

        queries: [b or 1, q, dim] (1: the same queries for every image, projected once); keys, values: [b, t, dim].
        Returns (output [b, q, dim], attention [b, heads, q, t], whose rows sum to 1).
        """
        scale = (queries.shape[-1] // self.heads) ** -0.5
        q = self._split(self.query(queries) * scale)  # [b or 1, heads, q, dim / heads]
        k = self._split(self.key(keys))  # [b, heads, t, dim / heads]
        v = self._split(self.value(values))  # [b, heads, t, dim / heads]
        attention = torch.softmax(torch.matmul(q, k.transpose(-2, -1)), dim=-1)  # [b, heads, q, t]
        gathered = torch.matmul(attention, v)  # [b, heads, q, dim / heads]
        return self.output(gathered.transpose(1, 2).flatten(2)), attention

    def _split(self, x: Tensor) -> Tensor:
        """[b, n, dim] -> [b, heads, n, dim / heads]."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear, ReLU, Linear over [..., dim]."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, width)
        self.reduce = nn.Linear(width, dim)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.reduce.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., dim] -> [..., dim]."""
        out: Tensor = self.reduce(F.relu(self.expand(x)))
        return out


class PostNormLayer(nn.Module):
    """What both layers consist of: attention, then a feed-forward block, each added to its input and normed after."""

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)
        self.attention_norm = nn.LayerNorm(dim)
        self.feedforward = FeedForward(dim, feedforward)
        self.feedforward_norm = nn.LayerNorm(dim)

    def _after_attention(self, x: Tensor) -> Tensor:
        """x: the layer's input plus what attention gathered, [b, n, dim]. Returns the layer's output, [b, n, dim]."""
        x = self.attention_norm(x)
        out: Tensor = self.feedforward_norm(x + self.feedforward(x))
        return out


class EncoderLayer(PostNormLayer):
    """Post-norm self-attention over the tokens; the position is added to queries and keys, not to values."""

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens: [b, t, dim]; positions: [t, dim]. Returns [b, t, dim]."""
        placed = tokens + positions
        attended, _ = self.attention(placed, placed, tokens)
        return self._after_attention(tokens + attended)


class CrossAttentionLayer(PostNormLayer):
    """Post-norm cross-attention from the queries to the memory, without self-attention.

    Queries don't see each other, so leaving some out changes nothing for the others: that is what makes the auxiliary
    branch free to drop. The target starts at zero, so attention's query input is the query vector itself, and nothing
    is added to what it gathered. One more LayerNorm follows the layer's own last one.
    """

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__(dim, heads, feedforward)
        self.final_norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """queries: [q, dim]; memory: [b, t, dim]; positions: [t, dim].

        Returns (output [b, q, dim], attention [b, heads, q, t]).
        """
        attended, attention = self.attention(queries.unsqueeze(0), memory + positions, memory)
        return self.final_norm(self._after_attention(attended)), attention
