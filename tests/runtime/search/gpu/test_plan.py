"""How a search is cut up."""

from itertools import product

import pytest

from queryopt.runtime.search.gpu.plan import MAX_ROWS, Tuning, plan_nearest, plan_radius

H100 = 132 * 4
"""Blocks that an H100 runs at a time."""
DEFAULT = Tuning()


ROWS = [1, 31, 32, 5000, 10**6, 10**8, MAX_ROWS]
QUERIES = [1, 7, 33, 1000, 10**6]


@pytest.mark.parametrize("workspace", [1, 1 << 20, 1 << 29])
@pytest.mark.parametrize("resident", [2, H100])
def test_a_round_covers_its_rows_and_queries(workspace: int, resident: int) -> None:
    for rows, queries, k in product(ROWS, QUERIES, (1, 10, 1000, 10**6)):
        check_nearest_plan(rows, queries, k, workspace, resident)


def check_nearest_plan(rows: int, queries: int, k: int, workspace: int, resident: int) -> None:
    k = min(k, rows)
    plan = plan_nearest(rows, queries, k, resident, Tuning(workspace=workspace))
    assert 1 <= plan.queries <= min(queries, plan.groups * plan.group)
    assert (plan.groups - 1) * plan.group < plan.queries
    assert plan.group <= 32
    assert plan.groups <= 65535
    assert plan.warps == 8 * plan.blocks
    assert plan.rows_per_warp * plan.warps >= rows
    assert plan.rows_per_warp % 32 == 0
    assert plan.rows_per_warp <= 1 << 25, "a row's number within its piece has 25 bits"
    assert plan.capacity >= min(plan.rows_per_warp, k + 32), "a list that is full must hold k after 32 more"
    assert 1 <= plan.sample <= rows
    least = 4 * max(8, -(-rows // (1 << 25))) * plan.capacity * 2
    assert plan.list_bytes <= max(workspace, least, 8 * rows + 1024), (plan, plan.list_bytes)


def test_a_large_batch_fills_the_device_in_one_round() -> None:
    plan = plan_nearest(10**8, 1000, 10, H100, DEFAULT)
    assert (plan.queries, plan.group, plan.groups) == (1000, 32, 32)
    blocks = plan.blocks * plan.groups
    waves = -(-blocks // H100)
    assert blocks / (waves * H100) > 0.95
    assert plan.list_bytes <= DEFAULT.workspace


def test_one_query_keeps_the_whole_device_busy() -> None:
    assert 0.99 * H100 <= plan_nearest(10**8, 1, 10, H100, DEFAULT).blocks <= H100
    assert plan_nearest(10**6, 1, 10, H100, DEFAULT).blocks == 10**6 // (8 * DEFAULT.min_piece)


def test_a_large_k_takes_fewer_queries_a_block_and_then_fewer_a_round() -> None:
    plan = plan_nearest(10**8, 1000, 10_000, H100, DEFAULT)
    assert plan.list_bytes <= DEFAULT.workspace
    assert plan.queries * plan.blocks < 1000 * 16
    assert plan_nearest(10**8, 1000, 10**6, H100, DEFAULT).queries < 100


@pytest.mark.parametrize("workspace", [1, 1 << 29])
def test_a_round_of_a_radius_search(workspace: int) -> None:
    for rows, queries, radius in product(ROWS, QUERIES, (0, 2, 31, 64)):
        check_radius_plan(rows, queries, radius, workspace)


def check_radius_plan(rows: int, queries: int, radius: int, workspace: int) -> None:
    plan = plan_radius(rows, queries, radius, H100, Tuning(workspace=workspace))
    assert 1 <= plan.queries <= min(queries, plan.groups * plan.group)
    assert (plan.groups - 1) * plan.group < plan.queries
    assert plan.group <= 32
    assert plan.group * (radius + 1) <= 512, "the counters of a warp"
    assert plan.rows_per_warp * plan.warps >= rows
    assert plan.rows_per_warp <= 1 << 25
    assert plan.groups == 1 or plan.count_bytes(radius) <= workspace
