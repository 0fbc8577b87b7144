"""The network: images -> logits, one query a bit (sections 3.2 to 3.4 of the paper).

backbone taps -> top-down fusion (eq. 2) -> projection -> positions -> encoder -> queries and their rolled copies
(eq. 10) -> cross-attention decoder -> one linear head shared by all queries.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from queryopt.errors import UsageError
from queryopt.train.attention import CrossAttentionLayer, EncoderLayer
from queryopt.train.backbones import build_backbone
from queryopt.train.hash_network import HashNetwork, TrainingPart
from queryopt.train.network_config import MAX_BRANCHES, POSITIONS, NetworkConfig, check_integer
from queryopt.train.trunks import BackboneSpec

__all__ = ["QueryOpt", "roll_queries"]


def roll_queries(queries: Tensor, branches: int) -> Tensor:
    """The queries and their rolled copies (eq. 10): copy i is rolled by i * dim // branches along its width.

    queries: [bits, dim]. Returns [branches * bits, dim]; row i * bits + q is copy i of query q, copy 0 the query.
    """
    dim = queries.shape[1]
    return torch.cat([queries, *(torch.roll(queries, i * dim // branches, dims=1) for i in range(1, branches))])


class TopDownPath(nn.Module):
    """Eq. 2: the second-to-last stage, to which the last one is added after it was upsampled."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        c3, c4 = spec.channels
        width = spec.fusion_width
        self.lateral = nn.Conv2d(c3, c3, 1)
        self.up = nn.Sequential(
            nn.Conv2d(c4, width, 1),
            nn.BatchNorm2d(width),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, c3, 1),
            nn.BatchNorm2d(c3),
            nn.ReLU(inplace=True),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, stage3: Tensor, stage4: Tensor) -> Tensor:
        """stage3: [b, c3, g3, g3]; stage4: [b, c4, g4, g4]. Returns [b, c3, g3, g3]."""
        up = self.up(stage4)  # [b, c3, 2 g4, 2 g4]
        side = stage3.shape[-1]
        if up.shape[-1] != side:
            # Where g3 is odd, 2 g4 is g3 + 1: the last row and column are beyond the picture.
            up = up[..., :side, :side]
        out: Tensor = self.lateral(stage3) + up
        return out


class Positions(nn.Module):
    """Learned positions: half of the width says the column, half the row (in this order).

    The grids use consecutive indices: 0..g3-1, then g3..g3+g4-1.
    """

    def __init__(self, dim: int, grids: tuple[int, int], first: int) -> None:
        """first: the first of the two grids that has tokens (1 without fusion)."""
        super().__init__()
        self.column = nn.Parameter(torch.rand(POSITIONS, dim // 2))
        self.row = nn.Parameter(torch.rand(POSITIONS, dim // 2))
        self.ranges = ((0, grids[0]), (grids[0], grids[0] + grids[1]))[first:]

    def forward(self) -> Tensor:
        """Positions of all tokens, [tokens, dim]."""
        parts = []
        for start, end in self.ranges:
            side = end - start
            column = self.column[start:end].unsqueeze(0).expand(side, -1, -1)  # [row, column, dim / 2]
            row = self.row[start:end].unsqueeze(1).expand(-1, side, -1)  # [row, column, dim / 2]
            parts.append(torch.cat((column, row), dim=2).flatten(0, 1))
        return torch.cat(parts)


class QueryOpt(HashNetwork):
    """The network of `config`, with random weights.

    Its parts: backbone, fusion, projection, positions, encoder, queries, decoder, head (fusion, encoder, queries and
    decoder are None where the config leaves them out).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        c3, c4 = config.spec.channels
        dim = config.dim
        self.backbone = build_backbone(config.backbone, config.image_size)
        self.fusion = TopDownPath(config.spec) if config.fusion else None
        projections = {"stage3": nn.Conv2d(c3, dim, 1)} if config.fusion else {}
        self.projection = nn.ModuleDict({**projections, "stage4": nn.Conv2d(c4, dim, 1)})
        self.positions = (
            Positions(dim, config.grids, 0 if config.fusion else 1) if config.fusion or config.queries else None
        )
        self.encoder = EncoderLayer(dim, config.heads, config.feedforward) if config.fusion else None
        self.queries = nn.Parameter(torch.randn(config.bits, dim)) if config.queries else None
        self.decoder = CrossAttentionLayer(dim, config.heads, config.feedforward) if config.queries else None
        self.head = nn.Linear(dim, 1 if config.queries else config.bits, bias=False)
        self._complete()

    def forward(self, images: Tensor, branches: int | None = None) -> Tensor:
        """Logits w . y / |y|_2, before tanh.

        images: float32 [b, 3, s, s], normalised. branches: how many rolled copies (the original included) to run; None
        is config.branches in train mode and 1 in eval mode. Returns [b, bits * branches]: column roll * bits + query,
        so the first `bits` columns are the code's, whatever `branches` is.
        """
        if branches is None:
            branches = self.config.branches if self.training else 1
        with self.body_precision(images):
            memory, positions = self._memory(images)
            outputs = self._decode(memory, positions, branches)[0]
        return self._score(self.head_precision(outputs))

    def forward_with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The code's logits and where each query looked.

        images: float32 [b, 3, s, s], normalised. Returns (logits [b, bits], attention [b, bits, tokens]): attention is
        averaged over heads and sums to 1 over the tokens (14x14, then 7x7, row by row at 224 pixels). UsageError where
        the network has no queries.
        """
        memory, positions = self._memory(images)
        outputs, attention = self._decode(memory, positions, 1)
        if attention is None:
            raise UsageError("this network was trained without queries: it has no attention to show")
        return self._score(outputs), attention.mean(dim=1)

    def training_parts(self) -> list[TrainingPart]:
        """The auxiliary branch, which adds no parameters: its rolled copies must be in no graph. See the base class."""
        parts = super().training_parts()
        copies, bits = self.config.branches - 1, self.config.bits
        if copies and self.queries is not None:
            # A copy of any query would betray the branch; the first one's are enough to look for.
            rows = roll_queries(self.queries[:1].detach(), copies + 1)[1:].cpu().numpy()  # [copies, dim]
            what = f"{copies} rolled {'copy' if copies == 1 else 'copies'}"
            size = f"{what} of {bits} {'query' if bits == 1 else 'queries'}"
            parts.insert(0, TrainingPart("auxiliary branch", size, "rolled queries", rows, are_queries=True))
        return parts

    def _memory(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoded tokens [b, tokens, dim] and their positions [tokens, dim] (None where nothing uses them)."""
        self.check_images(images)
        stage3, stage4 = self.maps(images)
        maps = [self.projection["stage4"](stage4)]
        if self.fusion is not None:
            maps.insert(0, self.projection["stage3"](self.fusion(stage3, stage4)))
        memory = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)  # [b, tokens, dim]
        positions = self.positions() if self.positions is not None else None
        if self.encoder is not None:
            memory = self.encoder(memory, positions)
        return memory, positions

    def _decode(self, memory: Tensor, positions: Tensor | None, branches: int) -> tuple[Tensor, Tensor | None]:
        """What the head scores, [b, bits * branches, dim], and attention [b, heads, bits * branches, tokens].

        Without queries [b, dim], and None.
        """
        if self.decoder is None or self.queries is None:
            if branches != 1:
                raise UsageError(f"branches is {branches}, but this network has no queries to roll")
            return memory.mean(dim=1), None
        check_integer("branches", branches, 1, MAX_BRANCHES)
        outputs, attention = self.decoder(roll_queries(self.queries, branches), memory, positions)
        return outputs, attention

    def _score(self, outputs: Tensor) -> Tensor:
        """Logits [b, bits * branches] of what `_decode` returns."""
        logits: Tensor = self.head(F.normalize(outputs, dim=outputs.dim() - 1))
        return logits if self.queries is None else logits.squeeze(2)
