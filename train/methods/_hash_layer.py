"""The network of the methods that came before queries: pooled features of a backbone, and one hash layer."""

import torch
from torch import Tensor, nn

from queryopt.errors import UsageError
from queryopt.train.backbones import build_backbone
from queryopt.train.hash_network import HashNetwork
from queryopt.train.network_config import NetworkConfig

__all__ = ["QUERY_FIELDS", "HashLayerNetwork"]

QUERY_FIELDS = frozenset({"branches", "dim", "feedforward", "fusion", "heads", "queries"})
"""What NetworkConfig says of queries, of which such a network has none."""
_STD = 0.01


class HashLayerNetwork(HashNetwork):
    """The last stage's features, averaged over the picture, then one linear layer with a row a bit.

    The layer starts as N(0, 0.01) with bias 0, as in the published code of the methods that use it.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config.backbone, config.image_size)
        self.head = nn.Linear(config.spec.channels[1], config.bits)
        nn.init.normal_(self.head.weight, std=_STD)
        nn.init.zeros_(self.head.bias)
        self._complete()

    def forward(self, images: Tensor, branches: int | None = None) -> Tensor:
        """Logits [b, bits] of images float32 [b, 3, s, s], normalised.

        In train mode z = W f + c, f being the features: what the losses of these methods are made of. In eval mode
        z / |(f, 1)|_2, which is (W, c) . y / |y|_2 for y = (f, 1): the same signs and, for one picture, the same order
        of bits, with the bound `logit_scale` that deployed logits have in every model. UsageError for branches but 1.
        """
        if branches not in (None, 1):
            raise UsageError(f"branches is {branches}, but this network has no queries to roll")
        self.check_images(images)
        with self.body_precision(images):
            features = self.maps(images)[1]
        features = self.head_precision(features).mean(dim=(2, 3))  # [b, channels]
        logits: Tensor = self.head(features)  # [b, bits]
        if self.training:
            return logits
        norms: Tensor = (features.square().sum(dim=1, keepdim=True) + 1).sqrt()  # [b, 1]
        return logits / norms

    @property
    def logit_scale(self) -> float:
        """The largest |(w, c)|_2 of a bit, the largest possible |logit| in eval mode."""
        rows = torch.cat([self.head.weight, self.head.bias[:, None]], dim=1)
        return float(rows.detach().double().norm(dim=1).max())
