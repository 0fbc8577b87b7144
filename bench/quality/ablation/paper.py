"""What the paper reports, mAP in %: rows to set beside one's own. Its gallery is of codes solved from labels."""

from collections.abc import Mapping

__all__ = ["METHODS", "PAPER_BITS", "PAPER_BRANCHES", "PAPER_MODULES", "paper_map"]

PAPER_BITS = (12, 24, 32, 48)
"""Code lengths of tables 1 and 2."""

METHODS: Mapping[str, Mapping[str, tuple[float, float, float, float]]] = {
    "cub200": {
        "dpsh": (8.68, 12.51, 12.74, 15.58),
        "hashnet": (12.03, 17.77, 19.93, 22.13),
        "adsh": (20.03, 50.33, 61.68, 65.43),
        "queryopt": (72.19, 81.38, 82.22, 83.96),
    },
    "aircraft": {
        "dpsh": (8.74, 10.87, 13.54, 13.94),
        "hashnet": (14.91, 17.75, 19.42, 20.32),
        "adsh": (15.54, 23.09, 30.37, 50.65),
        "queryopt": (78.47, 83.88, 84.06, 85.60),
    },
    "food101": {
        "dpsh": (11.82, 13.05, 16.41, 20.06),
        "hashnet": (24.42, 34.48, 35.90, 39.65),
        "adsh": (35.64, 40.93, 42.89, 48.81),
        "queryopt": (70.69, 81.76, 82.74, 83.81),
    },
    "nabirds": {
        "dpsh": (2.17, 4.08, 3.61, 3.20),
        "hashnet": (2.34, 3.29, 4.52, 4.97),
        "adsh": (2.53, 8.23, 14.71, 25.34),
        "queryopt": (28.13, 37.75, 41.33, 43.71),
    },
    "vegfru": {
        "dpsh": (6.33, 9.05, 10.28, 9.11),
        "hashnet": (3.70, 6.24, 7.83, 10.29),
        "adsh": (8.24, 24.90, 36.53, 55.15),
        "queryopt": (69.76, 83.30, 83.81, 85.38),
    },
}
"""Table 1, by data set and method, at `PAPER_BITS`."""

PAPER_MODULES: Mapping[str, tuple[float, float, float, float]] = {
    "base": (20.03, 50.33, 61.68, 65.43),
    "S": (27.43, 59.19, 67.69, 77.07),
    "SQ": (33.33, 64.94, 74.79, 80.52),
    "SQA": (72.19, 81.38, 82.22, 83.96),
}
"""Table 2, of CUB-200-2011, at `PAPER_BITS`."""

PAPER_BRANCHES: Mapping[str, Mapping[int, float]] = {
    "cub200": {1: 33.33, 2: 52.44, 4: 69.46, 6: 71.57, 8: 72.19, 12: 72.36},
    "aircraft": {1: 39.43, 2: 65.70, 4: 74.51, 6: 75.20, 8: 78.47, 12: 78.38},
}
"""Table 3, by data set and N, at 12 bits."""


def paper_map(data_set: str, arm: str, bits: int) -> float | None:
    """The paper's mAP in % for an arm of `studies`, such as "n8" or "adsh"; None where it reports none."""
    column = PAPER_BITS.index(bits) if bits in PAPER_BITS else None
    if arm.startswith("n") and arm[1:].isdigit():
        branches = int(arm[1:])
        table = PAPER_BRANCHES.get(data_set, {}) if bits == 12 else {}
        if branches in table:
            return table[branches]
        arm = "SQ" if branches == 1 else "queryopt" if branches == 96 // bits else ""
    if column is None:
        return None
    if data_set == "cub200" and arm in PAPER_MODULES:
        return PAPER_MODULES[arm][column]
    row = METHODS.get(data_set, {}).get({"base": "adsh"}.get(arm, arm))
    return None if row is None else row[column]
