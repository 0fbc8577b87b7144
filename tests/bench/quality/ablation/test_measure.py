"""What limits a code: classes that share one, and the cut to bits."""

from dataclasses import replace

import numpy as np
import pytest

from queryopt.bench.quality.ablation.measure import code_limit, uncut_map
from queryopt.bench.quality.evaluate import evaluate
from queryopt.bench.quality.labelled_codes import LabelledCodes
from queryopt.codes import pack_codes


def labelled(bits: list[list[int]], labels: list[str], root: str = "train") -> LabelledCodes:
    paths = tuple(f"/{root}/{label}/{n}".encode() for n, label in enumerate(labels))
    return LabelledCodes(len(bits[0]), pack_codes(np.array(bits)), np.array(labels), paths, {})


def with_logits(logits: list[list[float]], labels: list[str], root: str = "train") -> LabelledCodes:
    values = np.array(logits, np.float32)
    return replace(labelled((values >= 0).astype(int).tolist(), labels, root), logits=values)


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


def test_logits_that_are_not_cut_rank_what_bits_tie() -> None:
    # By angle the query meets a, b, a, however long the vectors are: (1 / 1 + 2 / 3) / 2. All have the same code.
    gallery = with_logits([[9, 1], [1, 1], [0.2, 0.9]], ["a", "b", "a"])
    queries = with_logits([[5, 1], [1, 1]], ["a", "elsewhere"], "test")
    assert uncut_map(gallery, queries) == pytest.approx((1 + 2 / 3) / 2)
    assert uncut_map(gallery, with_logits([[50, 10]], ["a"], "test")) == pytest.approx((1 + 2 / 3) / 2)
    assert evaluate(gallery, queries).metrics.map == pytest.approx(np.mean([1, 5 / 6, (1 / 2 + 2 / 3) / 2]))
    assert uncut_map(gallery, with_logits([[1, 1]], ["elsewhere"], "test")) == 0


def test_logits_of_more_queries_than_are_ranked_at_once() -> None:
    rng = np.random.default_rng(0)
    labels = [str(n) for n in rng.integers(0, 3, 600)]
    gallery = with_logits(rng.standard_normal((40, 5)).tolist(), labels[:40])
    values = rng.standard_normal((600, 5)).tolist()
    each = [uncut_map(gallery, with_logits([row], [label], "test")) for row, label in zip(values, labels, strict=True)]
    assert uncut_map(gallery, with_logits(values, labels, "test")) == pytest.approx(np.mean(each))
