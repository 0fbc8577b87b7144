"""The inference network as parts that compute the same in more than one way: what `queryopt.export.fold` rewrites.

`FoldedNetwork(network)` is the plain network, part by part. Each part below that says so has a cheaper twin, which a
rewrite puts in its place. Tokens are t, queries (bits) are n, and heads h, in all shapes.
"""

import copy
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from queryopt.card import Preprocessing

if TYPE_CHECKING:
    from queryopt.train.attention import CrossAttentionLayer, EncoderLayer, MultiHeadAttention, PostNormLayer
    from queryopt.train.network import QueryOpt

__all__ = [
    "CentredPixels",
    "ConstantQueryScores",
    "Decoder",
    "Encoder",
    "FineLevel",
    "FoldedNetwork",
    "GatheredMemory",
    "Head",
    "KeyScores",
    "NormalisedPixels",
    "PhaseConvolutions",
    "PlacedSelfAttention",
    "PlainScores",
    "PlainSelfAttention",
    "PlainValues",
    "SplitFineLevel",
    "Tokens",
    "constant",
]


def constant(value: Tensor) -> nn.Parameter:
    """A tensor as a weight that is never trained."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)


class NormalisedPixels(nn.Module):
    """(x / 255 - mean) / std, channels first. Twin: CentredPixels."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.mean = constant(torch.tensor(preprocessing.mean, dtype=torch.float64))
        self.std = constant(torch.tensor(preprocessing.std, dtype=torch.float64))

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [b, s, s, 3], 0 to 255 -> [b, 3, s, s]."""
        return ((pixels / 255 - self.mean) / self.std).permute(0, 3, 1, 2)


class CentredPixels(nn.Module):
    """x - 255 mean, channels first: zero stays what convolutions pad with, and their weights do the rest.

    mean: [3], of the pixels, 0 to 255.
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = constant(mean[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [b, s, s, 3], 0 to 255 -> [b, 3, s, s]."""
        # Channels first, then the difference: a runtime broadcasts over rows of pixels, and not over three numbers.
        out: Tensor = pixels.permute(0, 3, 1, 2) - self.mean
        return out


class FineLevel(nn.Module):
    """Eq. 2 and its projection: project(lateral(stage3) + up). Twin: SplitFineLevel."""

    def __init__(self, lateral: nn.Conv2d, project: nn.Conv2d) -> None:
        super().__init__()
        self.lateral = lateral
        self.project = project

    def forward(self, stage3: Tensor, up: Tensor) -> Tensor:
        """stage3, up: [b, c3, g3, g3] -> [b, dim, g3, g3]."""
        out: Tensor = self.project(self.lateral(stage3) + up)
        return out


class SplitFineLevel(nn.Module):
    """direct(stage3) + project(up), where direct is the projection of the lateral convolution."""

    def __init__(self, direct: nn.Conv2d, project: nn.Conv2d) -> None:
        super().__init__()
        self.direct = direct
        self.project = project

    def forward(self, stage3: Tensor, up: Tensor) -> Tensor:
        """stage3, up: [b, c3, g3, g3] -> [b, dim, g3, g3]."""
        out: Tensor = self.direct(stage3) + self.project(up)
        return out


class PhaseConvolutions(nn.Module):
    """A transposed convolution of kernel 4, stride 2 and padding 1 as convolutions of the small map's own grid.

    Each of the four phases (row parity, column parity) of the larger map sees 2x2 places of the small one: weight
    [4, out, in, 2, 2], phase 2 * row + column; bias: [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.phases = nn.ParameterList([constant(phase) for phase in weight])
        self.bias = constant(bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [b, in, g, g] -> [b, out, 2 g, 2 g]."""
        outputs = []
        for phase, weight in enumerate(self.phases):
            row, column = divmod(phase, 2)
            # An even place looks back, an odd one ahead.
            padded = F.pad(x, (1 - column, column, 1 - row, row))
            outputs.append(F.conv2d(padded, weight, self.bias))  # [b, out, g, g]
        return F.pixel_shuffle(torch.stack(outputs, dim=2).flatten(1, 2), 2)


class Tokens(nn.Module):
    """The last two stages as tokens; without fusion, the last one."""

    def __init__(self, up: nn.Sequential | None, fine: nn.Module | None, coarse: nn.Conv2d) -> None:
        super().__init__()
        self.up = up
        self.fine = fine
        self.coarse = coarse

    def forward(self, stage3: Tensor, stage4: Tensor) -> Tensor:
        """stage3: [b, c3, g3, g3]; stage4: [b, c4, g4, g4]. Returns [b, t, dim]."""
        maps = [self.coarse(stage4)]
        if self.up is not None and self.fine is not None:
            side = stage3.shape[-1]
            up = self.up(stage4)
            if up.shape[-1] != side:
                up = up[..., :side, :side]
            maps.insert(0, self.fine(stage3, up))
        return torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)


class PlainSelfAttention(nn.Module):
    """The encoder's attention as it was trained. Twin: PlacedSelfAttention."""

    def __init__(self, attention: "MultiHeadAttention", positions: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.positions = constant(positions)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [b, t, dim] -> what each gathered, [b, t, dim]."""
        placed = tokens + self.positions
        out: Tensor = self.attention(placed, placed, tokens)[0]
        return out


class PlacedSelfAttention(nn.Module):
    """Queries, keys and values by one product; positions, scale and biases are in constants.

    weight: [dim, 3 dim] (queries, keys, values). query_bias, key_bias: [t, dim]; values have none.
    """

    def __init__(self, weight: Tensor, query_bias: Tensor, key_bias: Tensor, output: nn.Linear, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = constant(weight)
        self.query_bias = constant(query_bias)
        self.key_bias = constant(key_bias)
        self.output = output

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [b, t, dim] -> what each gathered, [b, t, dim]."""
        q, k, v = torch.matmul(tokens, self.weight).chunk(3, dim=2)  # each [b, t, dim]
        q = split_heads(q + self.query_bias, self.heads)  # [b, h, t, dim / h]
        k = split_heads(k + self.key_bias, self.heads)
        v = split_heads(v, self.heads)
        attention = torch.softmax(torch.matmul(q, k.transpose(-2, -1)), dim=-1)  # [b, h, t, t]
        out: Tensor = self.output(join_heads(torch.matmul(attention, v)))
        return out


class Encoder(nn.Module):
    """The post-norm encoder layer around an attention that can be rewritten."""

    def __init__(self, layer: "EncoderLayer", positions: Tensor) -> None:
        super().__init__()
        self.attention: nn.Module = PlainSelfAttention(layer.attention, positions)
        self.rest = AfterAttention(layer)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [b, t, dim] -> [b, t, dim]."""
        out: Tensor = self.rest(tokens + self.attention(tokens))
        return out


class AfterAttention(nn.Module):
    """The rest of a post-norm layer: norm, feed-forward block added to its input, norm."""

    def __init__(self, layer: "PostNormLayer") -> None:
        super().__init__()
        self.attention_norm = layer.attention_norm
        self.feedforward = layer.feedforward
        self.feedforward_norm = layer.feedforward_norm

    def forward(self, x: Tensor) -> Tensor:
        """x: [b, n, dim] -> [b, n, dim]."""
        x = self.attention_norm(x)
        out: Tensor = self.feedforward_norm(x + self.feedforward(x))
        return out


class PlainScores(nn.Module):
    """How well each query matches each token, as it was trained. Twins: ConstantQueryScores, KeyScores."""

    def __init__(self, attention: "MultiHeadAttention", queries: Tensor, positions: Tensor) -> None:
        super().__init__()
        self.heads = attention.heads
        self.query = attention.query
        self.key = attention.key
        self.queries = constant(queries)
        self.positions = constant(positions)

    def forward(self, memory: Tensor) -> Tensor:
        """memory: [b, t, dim] -> [b, h, n, t], before the softmax."""
        scale = (self.queries.shape[1] // self.heads) ** -0.5
        q = split_heads(self.query(self.queries.unsqueeze(0)) * scale, self.heads)  # [1, h, n, dim / h]
        k = split_heads(self.key(memory + self.positions), self.heads)  # [b, h, t, dim / h]
        return torch.matmul(q, k.transpose(-2, -1))


class ConstantQueryScores(nn.Module):
    """Keys against queries that are constants already projected and scaled.

    queries: [h, n, dim / h]; weight: [dim, dim], of the keys; bias: [t, dim], of the keys, in which the positions are.
    """

    def __init__(self, queries: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.queries = constant(queries)
        self.weight = constant(weight)
        self.bias = constant(bias)

    def forward(self, memory: Tensor) -> Tensor:
        """memory: [b, t, dim] -> [b, h, n, t], before the softmax."""
        keys = torch.matmul(memory, self.weight) + self.bias  # [b, t, dim]
        k = split_heads(keys, self.queries.shape[0])  # [b, h, t, dim / h]
        return torch.matmul(self.queries, k.transpose(-2, -1))


class KeyScores(nn.Module):
    """The queries are in the weights of the keys, so the product with them gives the scores.

    weight: [dim, h n], column head * n + query; bias: [t, h n].
    """

    def __init__(self, weight: Tensor, bias: Tensor, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = constant(weight)
        self.bias = constant(bias)

    def forward(self, memory: Tensor) -> Tensor:
        """memory: [b, t, dim] -> [b, h, n, t], before the softmax."""
        # Constants on the right, where runtimes look for weights.
        scores = torch.matmul(memory, self.weight) + self.bias  # [b, t, h n]
        return scores.transpose(1, 2).reshape(scores.shape[0], self.heads, -1, scores.shape[1])


class PlainValues(nn.Module):
    """Values of all tokens, of which each query then gathers. Twin: GatheredMemory."""

    def __init__(self, value: nn.Linear, output: nn.Linear) -> None:
        super().__init__()
        self.value = value
        self.output = output

    def forward(self, attention: Tensor, memory: Tensor) -> Tensor:
        """attention: [b, h, n, t]; memory: [b, t, dim]. Returns [b, n, dim]."""
        v = split_heads(self.value(memory), attention.shape[1])  # [b, h, t, dim / h]
        out: Tensor = self.output(join_heads(torch.matmul(attention, v)))
        return out


class GatheredMemory(nn.Module):
    """Each query gathers memory first, and what it gathered becomes a value.

    weight: [h, dim, dim / h].
    """

    def __init__(self, weight: Tensor, output: nn.Linear) -> None:
        super().__init__()
        self.weight = constant(weight)
        self.output = output

    def forward(self, attention: Tensor, memory: Tensor) -> Tensor:
        """attention: [b, h, n, t]; memory: [b, t, dim]. Returns [b, n, dim]."""
        gathered = torch.matmul(attention.flatten(1, 2), memory)  # [b, h n, dim]
        heads = torch.matmul(gathered.reshape(*attention.shape[:3], -1), self.weight)  # [b, h, n, dim / h]
        out: Tensor = self.output(join_heads(heads))
        return out


class Decoder(nn.Module):
    """The cross-attention layer of the code's own queries."""

    def __init__(self, layer: "CrossAttentionLayer", queries: Tensor, positions: Tensor) -> None:
        super().__init__()
        self.scores: nn.Module = PlainScores(layer.attention, queries, positions)
        self.values: nn.Module = PlainValues(layer.attention.value, layer.attention.output)
        self.rest = AfterAttention(layer)
        self.final_norm = layer.final_norm

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """memory: [b, t, dim] -> (outputs [b, n, dim], attention [b, h, n, t])."""
        attention = torch.softmax(self.scores(memory), dim=-1)
        return self.final_norm(self.rest(self.values(attention, memory))), attention


class Head(nn.Module):
    """w . (y / |y|), one w for all queries, or a row a bit without queries.

    weight: [1 or bits, dim]. divide_last: (w . y) / |y| instead, a division a logit and not a number.
    """

    def __init__(self, weight: Tensor, divide_last: bool = False) -> None:
        super().__init__()
        self.weight = constant(weight)
        self.divide_last = divide_last

    def forward(self, outputs: Tensor) -> Tensor:
        """outputs: [..., dim] -> [..., 1 or bits]."""
        if not self.divide_last:
            return F.linear(F.normalize(outputs, dim=-1), self.weight)
        length: Tensor = torch.linalg.vector_norm(outputs, dim=-1, keepdim=True)
        return F.linear(outputs, self.weight) / length.clamp_min(1e-12)


class FoldedNetwork(nn.Module):
    """The inference network of `network`, in eval mode, with its own copies of the weights and nothing folded yet.

    Its parts: pixels, backbone, tokens, encoder (None without fusion), decoder (None without queries), head.
    """

    def __init__(self, network: "QueryOpt") -> None:
        super().__init__()
        network = copy.deepcopy(network).eval()
        config = network.config
        self.config = config
        self.pixels: nn.Module = NormalisedPixels(config.preprocessing)
        self.backbone = network.backbone
        fusion, projection = network.fusion, network.projection
        self.tokens = Tokens(
            None if fusion is None else fusion.up,
            None if fusion is None else FineLevel(fusion.lateral, cast(nn.Conv2d, projection["stage3"])),
            cast(nn.Conv2d, projection["stage4"]),
        )
        self.encoder: Encoder | None = None
        self.decoder: Decoder | None = None
        if network.positions is not None:
            positions: Tensor = network.positions()
            if network.encoder is not None:
                self.encoder = Encoder(network.encoder, positions)
            if network.decoder is not None and network.queries is not None:
                self.decoder = Decoder(network.decoder, network.queries, positions)
        self.head = Head(network.head.weight)
        self.to(network.head.weight.dtype).eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """pixels: [b, s, s, 3], 0 to 255, of the weights' dtype.

        Returns (logits [b, bits], attention [b, bits, tokens], averaged over heads; None without queries).
        """
        stage3, stage4 = self.backbone(self.pixels(pixels))
        memory = self.tokens(stage3, stage4)  # [b, t, dim]
        if self.encoder is not None:
            memory = self.encoder(memory)
        if self.decoder is None:
            return self.head(memory.mean(dim=1)), None
        outputs, attention = self.decoder(memory)
        return self.head(outputs).squeeze(2), attention.mean(dim=1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[b, n, dim] -> [b, heads, n, dim / heads]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[b, heads, n, dim / heads] -> [b, n, dim]."""
    return x.transpose(1, 2).flatten(2)
