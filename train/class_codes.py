"""One code a class, far apart: a start for the solver that is not noise.

With noise per image, classes come to share a code (59 of 100 distinct at 12 bits); with one separated code a class, a
network reaches in 15 iterations what it does not reach otherwise.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits
from queryopt.errors import UsageError

__all__ = ["minimum_distance", "separated_codes"]

Codes = npt.NDArray[np.int8]

_EXHAUSTIVE_BITS = 14
"""Up to this length every code is a candidate for every class; beyond, bits are flipped one at a time."""
_BUDGET = 2e10
"""About how many multiply-adds a search may take: some seconds."""
_SWEEPS = 100


def separated_codes(classes: int, bits: int, seed: int, branches: int = 1) -> Codes:
    """A code for each class, as far apart as a search of a few seconds finds.

    Returns int8 ±1 [classes, bits * branches], equal for equal arguments. The first `bits` columns, those that are
    deployed, are searched alone: all distinct where classes <= 2^bits, their smallest Hamming distance as large as
    possible, and few pairs at it. The other columns are then set so that the whole rows are far apart, too.
    UsageError for impossible arguments.
    """
    check_bits(bits)
    if classes < 1 or branches < 1:
        raise UsageError(f"{classes} classes and {branches} branches: separated codes need at least one of each")
    rng = np.random.default_rng([seed, classes, bits])
    if bits <= _EXHAUSTIVE_BITS:
        codes = _place(classes, bits, rng)
    else:
        codes = _flip(_distinct(classes, bits, rng), 0, rng)
    if branches > 1:
        rest = rng.choice(np.array([-1, 1], np.int8), (classes, bits * (branches - 1)))
        codes = _flip(np.hstack([codes, rest]), bits, rng)
    return codes


def minimum_distance(codes: npt.NDArray[np.generic]) -> int:
    """The smallest Hamming distance between two rows of ±1 codes [classes, bits]; bits where there is one row."""
    classes, bits = codes.shape
    return min((int(np.delete(row, i).min()) for i, row in _distances(codes) if classes > 1), default=bits)


def _distances(codes: npt.NDArray[np.generic]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Row by row, the distances to all rows [classes]."""
    values = codes.astype(np.float32)
    for i, row in enumerate(values):
        yield i, ((values.shape[1] - values @ row) / 2).astype(np.int64)


def _place(classes: int, bits: int, rng: np.random.Generator) -> Codes:
    """Put each class where the energy, a sum of 5^-distance over the others, is least; repeat until none moves.

    The energies of all 2^bits places are kept up to date, so that the best place for a class is one argmin. Energies
    are integers below 2^53 in float64: exact, whatever the order of the sum.
    """
    candidates = rng.permutation(1 << bits)  # argmin takes the first of equals: the seed says which
    energy_at = 5.0 ** (bits - np.arange(bits + 1))
    energy_at[0] = 2 * classes * energy_at[1]  # a taken place is worse than any free one
    by_xor = energy_at[np.bitwise_count(np.arange(1 << bits))]
    energy = np.zeros(1 << bits)
    places = np.zeros(classes, np.int64)  # indices into candidates
    for i in range(classes):
        places[i] = energy.argmin()
        energy += by_xor[candidates ^ candidates[places[i]]]
    for _ in range(min(_SWEEPS, int(_BUDGET / (classes << bits)))):
        moved = False
        for i in rng.permutation(classes):
            energy -= by_xor[candidates ^ candidates[places[i]]]
            best = energy.argmin()
            if energy[best] < energy[places[i]]:
                places[i] = best
                moved = True
            energy += by_xor[candidates ^ candidates[places[i]]]
        if not moved:
            break
    values = candidates[places]
    return np.where(values[:, None] >> np.arange(bits) & 1, 1, -1).astype(np.int8)


def _distinct(classes: int, bits: int, rng: np.random.Generator) -> Codes:
    """Random codes, all distinct where classes <= 2^bits; else in turn."""
    wanted = min(classes, 1 << bits)
    values = np.zeros(0, np.uint64)
    while len(values) < wanted:
        drawn = rng.integers(0, (1 << bits) - 1, classes, dtype=np.uint64, endpoint=True)
        values = np.unique(np.concatenate([values, drawn]))
    values = np.resize(rng.permutation(values)[:wanted], classes)
    return np.where(values[:, None] >> np.arange(bits, dtype=np.uint64) & np.uint64(1), 1, -1).astype(np.int8)


def _flip(codes: Codes, fixed: int, rng: np.random.Generator) -> Codes:
    """Flip the bit of a row that lowers the energy most, row by row, until none does; the first `fixed` columns stay.

    The energy of two rows falls exponentially with their distance: steeply against the distances' spread, sqrt(columns)
    / 2, so that the closest pairs count, and not so steeply that others don't (0.18 sqrt(columns) gave the largest
    minimum distances of the four slopes tried, from 16 to 96 columns). Energies are integers below 2^53 in float64:
    exact, whatever the order of the sum.
    """
    classes, columns = codes.shape
    slope = 0.18 * np.sqrt(columns)
    exponent = np.minimum((columns / 2 - np.arange(columns + 1)) / slope, 20)
    energy_at = np.rint(1024 * np.exp(exponent))
    energy_at[0] = 2 * energy_at[1]
    farther = np.append(np.diff(energy_at), 0)  # what the energy of a pair at distance d gains if d becomes d + 1
    nearer = np.append(0, -np.diff(energy_at))  # … if d becomes d - 1
    values = codes.astype(np.float64)
    for _ in range(min(_SWEEPS, int(_BUDGET / (classes * classes * columns)))):
        moved = False
        for i in rng.permutation(classes):
            for _ in range(columns):
                distance = ((columns - values @ values[i]) / 2).astype(np.int64)
                away, closer = farther[distance], nearer[distance]
                away[i] = closer[i] = 0
                # Twice the gain of flipping bit b: rows that agree with it get farther, the others nearer.
                gain = (away + closer).sum() + values[i] * ((away - closer) @ values)
                gain[:fixed] = 0
                bit = int(gain.argmin())
                if gain[bit] >= 0:
                    break
                values[i, bit] *= -1
                moved = True
        if not moved:
            break
    return values.astype(np.int8)
