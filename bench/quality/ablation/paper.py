"""What the paper reports, mAP in % (paper.toml): rows to set beside one's own, whose gallery is of codes solved from
labels.
"""

import importlib.resources
import tomllib
from collections.abc import Mapping
from typing import Any

__all__ = ["PAPER_BITS", "paper_map"]

PAPER_BITS = (12, 24, 32, 48)
"""Code lengths of tables 1 and 2."""

_TABLES: Mapping[str, Any] = tomllib.loads(
    importlib.resources.files("queryopt.bench.quality.ablation").joinpath("paper.toml").read_text("utf-8")
)


def paper_map(data_set: str, arm: str, bits: int) -> float | None:
    """The paper's mAP in % for an arm of `studies`, such as "n8" or "adsh"; None where it reports none."""
    methods, modules, by_branches = (_TABLES[table].get(data_set, {}) for table in ("methods", "modules", "branches"))
    if arm.startswith("n") and (count := arm[1:]).isdigit():
        if bits == 12 and count in by_branches:
            return float(by_branches[count])
        arm = "SQ" if count == "1" else "queryopt" if int(count) == 96 // bits else ""
    row = modules.get(arm) or methods.get({"base": "adsh"}.get(arm, arm))
    return None if row is None or bits not in PAPER_BITS else float(row[PAPER_BITS.index(bits)])
