"""What shared codes leave to be had."""

import numpy as np
import pytest

from queryopt.bench.ablation.measure import code_limit
from queryopt.bench.evaluate import LabelledCodes
from queryopt.codes import pack_codes


def labelled(bits: list[list[int]], labels: list[str], root: str = "train") -> LabelledCodes:
    paths = tuple(f"/{root}/{label}/{n}".encode() for n, label in enumerate(labels))
    return LabelledCodes(len(bits[0]), pack_codes(np.array(bits)), np.array(labels), paths, {})


def test_codes_of_their_own_have_no_limit_and_shared_ones_do() -> None:
    # The queries' own codes are wrong, and don't count.
    queries = labelled([[0, 0, 1], [0, 0, 1], [0, 0, 1]], ["a", "b", "elsewhere"], "test")
    apart = labelled([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]], ["a", "a", "b", "b"])
    assert code_limit(apart, queries) == 1
    # Two relevant ones among four that are tied: the mean over the orders.
    shared = labelled([[1, 1, 0]] * 4, ["a", "a", "b", "b"])
    orders = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert code_limit(shared, queries) == pytest.approx(np.mean([(1 / i + 2 / j) / 2 for i, j in orders]))
    # A picture that strays from its class's code changes nothing.
    assert code_limit(labelled([[1, 1, 0]] * 2 + [[0, 0, 0]] * 3, ["a"] * 2 + ["a", "b", "b"]), queries) == 1
