"""How a search is cut up: plain arithmetic, so that it can be tested without a device.

The codes are cut into one contiguous piece a warp, the queries into groups that a block takes at once. Memory beside
the codes is bounded by `workspace` bytes, whatever the data is: what doesn't fit is searched in several rounds.
"""

from dataclasses import dataclass

__all__ = ["BLOCK_WARPS", "MAX_ROWS", "NearestPlan", "RadiusPlan", "Tuning", "plan_nearest", "plan_radius"]

LANES = 32
BLOCK_WARPS = 8
"""Warps of a block that reads rows: kWarps of hamming.cu."""
GROUP = 32
"""Queries of a block at most: kGroup of hamming.cu."""
MAX_PIECE = 1 << 25
"""Rows of one warp: kRowBits of hamming.cu."""
MAX_ROWS = (1 << 32) - 1
"""Rows of an index: some counts over all rows have 32 bits."""
RADIUS_COUNTERS = 512
"""(queries of a block) x (radius + 1): kRadiusCounters of hamming.cu."""
MAX_GRID_Y = 65535
_FULL = 0.99
"""A launch that keeps a smaller share of the device busy, over all its waves of blocks, is cut finer."""


@dataclass(frozen=True)
class Tuning:
    """What a search may take, and how finely it is cut.

    workspace: bytes of device memory beside the codes and the results of one round (4 bytes a row and query are used
    where k is so large that even one query needs more).
    sample: rows that the first limit of a query is taken from, at most; of fewer rows, one in 256 (4,096 at least).
    min_piece: rows of a warp, where there are enough.
    select_threads: of a block that does one query's part before and after the scan.
    """

    workspace: int = 512 << 20
    sample: int = 1 << 16
    min_piece: int = 512
    select_threads: int = 1024


@dataclass(frozen=True)
class NearestPlan:
    """One round of a search for nearest codes.

    queries: of the round.
    group: queries of a block.
    groups, blocks: the grid is one by the other.
    warps: blocks x BLOCK_WARPS, each with `rows_per_warp` rows.
    capacity: entries of the list of one warp and query.
    sample: rows that limits are taken from.
    """

    queries: int
    group: int
    groups: int
    blocks: int
    warps: int
    rows_per_warp: int
    capacity: int
    sample: int

    @property
    def list_bytes(self) -> int:
        """Device memory of all lists."""
        return 4 * self.queries * self.warps * self.capacity


@dataclass(frozen=True)
class RadiusPlan:
    """One round of a radius search; names as in NearestPlan."""

    queries: int
    group: int
    groups: int
    blocks: int
    warps: int
    rows_per_warp: int

    def count_bytes(self, radius: int) -> int:
        """Device memory of the counts."""
        return 4 * self.queries * (radius + 1) * self.warps


def plan_nearest(rows: int, queries: int, k: int, resident: int, tuning: Tuning) -> NearestPlan:
    """The next round of a search: rows, queries, k >= 1; resident: blocks that the device runs at a time.

    Fewer queries a round come first where memory is short, then fewer a block, then fewer warps.
    """
    group = min(GROUP, queries)
    while True:
        groups = min(-(-queries // group), MAX_GRID_Y)
        while groups >= 1:
            plan = _nearest(
                rows, min(queries, groups * group), group, _blocks(rows, groups, resident, tuning), k, tuning
            )
            if plan.list_bytes <= tuning.workspace:
                return plan
            groups //= 2
        if group == 1:
            break
        group = (group + 1) // 2
    blocks = plan.blocks
    while plan.list_bytes > tuning.workspace and blocks > _min_blocks(rows):
        blocks = max(blocks // 2, _min_blocks(rows))
        plan = _nearest(rows, 1, 1, blocks, k, tuning)
    return plan


def plan_radius(rows: int, queries: int, radius: int, resident: int, tuning: Tuning) -> RadiusPlan:
    """The next round of a radius search: rows, queries >= 1; radius 0..64."""
    group = min(GROUP, queries, RADIUS_COUNTERS // (radius + 1))
    groups = min(-(-queries // group), MAX_GRID_Y)
    while True:
        taken = min(queries, groups * group)
        blocks = _blocks(rows, groups, resident, tuning)
        plan = RadiusPlan(taken, group, groups, blocks, blocks * BLOCK_WARPS, _rows_per_warp(rows, blocks))
        if plan.count_bytes(radius) <= tuning.workspace or groups == 1:
            return plan
        groups //= 2


def _nearest(rows: int, queries: int, group: int, blocks: int, k: int, tuning: Tuning) -> NearestPlan:
    rows_per_warp = _rows_per_warp(rows, blocks)
    # A full list makes room for k / 2 (32 at least) by a pass over all of it: longer lists are read less often.
    capacity = min(rows_per_warp, _up(k + LANES + max(LANES, k // 2), LANES))
    return NearestPlan(
        queries=queries,
        group=group,
        groups=-(-queries // group),
        blocks=blocks,
        warps=blocks * BLOCK_WARPS,
        rows_per_warp=rows_per_warp,
        capacity=capacity,
        sample=min(rows, max(min(tuning.sample, max(rows // 256, 4096)), 4 * k)),
    )


def _blocks(rows: int, groups: int, resident: int, tuning: Tuning) -> int:
    """Blocks that share the rows: so many that `groups` times as many fill the device evenly, and no more."""
    most = max(_min_blocks(rows), rows // (BLOCK_WARPS * tuning.min_piece))
    best, best_share = 1, 0.0
    for blocks in range(1, min(most, 4 * -(-resident // groups)) + 1):
        total = blocks * groups
        share = total / (-(-total // resident) * resident)
        if share > best_share:
            best, best_share = blocks, share
        if share >= _FULL:
            break
    return max(best, _min_blocks(rows))


def _min_blocks(rows: int) -> int:
    return max(1, -(-rows // (BLOCK_WARPS * MAX_PIECE)))


def _rows_per_warp(rows: int, blocks: int) -> int:
    """Whole warps of rows, so that every piece begins at a memory transaction's start."""
    return _up(-(-rows // (blocks * BLOCK_WARPS)), LANES)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
