"""Where each bit looked, as one map a bit: a model's attention over the tokens of two levels, laid on one grid."""

import math

import numpy as np
import numpy.typing as npt

from queryopt.errors import ModelError

__all__ = ["attention_grids", "merge_attention"]


def attention_grids(tokens: int) -> tuple[int, ...]:
    """Sides of the token grids, in the order in which tokens lie: (14, 7) for 245 tokens; (7,) for 49, of one level.

    The second level is half the first, rounded up. Where tokens could be two levels or one (289 is 15 x 15 and 8 x 8,
    and 17 x 17), they are two: networks of one level are studies without fusion. ModelError where they are neither.
    """
    side = math.isqrt(max(tokens, 0))
    for fine in range(side, 1, -1):
        coarse = (fine + 1) // 2
        if fine * fine + coarse * coarse == tokens:
            return (fine, coarse)
    if side and side * side == tokens:
        return (side,)
    raise ModelError(f"attention over {tokens} tokens: they are neither one square grid nor two, one half the other")


def merge_attention(attention: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Lay both levels on the finer grid: each coarse cell's weight is spread evenly over the fine cells that it covers.

    attention: float [..., tokens], not negative, as the output `attention` of a model exported with --explain: 14 x 14
    and then 7 x 7 cells at 224 pixels, row by row. Returns float32 [..., g, g], rows from the top, g the side of the
    first level. Weights stay: where they sum to one over the tokens, a map sums to one.

    A coarse cell covers 2 x 2 fine ones; where g is odd, those of the last row and column cover what there is of them.
    """
    grids = attention_grids(attention.shape[-1])
    fine = grids[0]
    shape = (*attention.shape[:-1], fine, fine)
    weights = attention.astype(np.float32)
    maps: npt.NDArray[np.float32] = weights[..., : fine * fine].reshape(shape)
    if len(grids) == 1:
        return maps
    coarse = weights[..., fine * fine :].reshape(*attention.shape[:-1], grids[1], grids[1])
    cell = np.arange(fine) // 2
    covers = np.bincount(cell).astype(np.float32)  # fine rows (and columns) of each coarse one
    coarse = coarse / (covers[:, None] * covers)
    return maps + coarse[..., cell[:, None], cell]
