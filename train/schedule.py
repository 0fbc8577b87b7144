"""Learning rates as a function of the position in a run, so that a resumed run needs no scheduler's state."""

import math
from dataclasses import dataclass

from queryopt.train.config import TrainConfig

__all__ = ["Rates", "rates_at"]

_WARM_UP = 0.3
_START = 1 / 25
_END = _START / 1e4
_BETAS = (0.95, 0.85)


@dataclass(frozen=True)
class Rates:
    """The optimiser's settings for one step. beta1: AdamW's first beta, None where it stays as it is."""

    lr: float
    beta1: float | None = None


def rates_at(config: TrainConfig, outer: int, step: int, steps: int) -> Rates:
    """The rates of step `step` (0-based, counted over the whole run of `steps`), which lies in outer iteration `outer`.

    `steps` is the paper's MultiStepLR, stepped once an outer iteration; `one-cycle` is Smith and Topin's (2018), with
    the numbers of torch's OneCycleLR: 30 % warm-up from lr / 25, cosine to lr / 250,000, and beta1 the other way round.
    """
    if config.schedule == "steps":
        return Rates(config.lr * 0.1 ** sum(outer >= boundary for boundary in config.lr_steps))
    if config.schedule == "constant":
        return Rates(config.lr)
    peak = _WARM_UP * steps - 1
    if step <= peak:
        share, ends, betas = step / peak, (_START, 1.0), _BETAS
    else:
        share, ends, betas = (step - peak) / max(steps - 1 - peak, 1e-9), (1.0, _END), _BETAS[::-1]
    beta1 = _cosine(*betas, share) if config.optimizer == "adamw" else None
    return Rates(config.lr * _cosine(*ends, share), beta1)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
