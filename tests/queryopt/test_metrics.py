import itertools

import numpy as np
import pytest

from queryopt import metrics as module
from queryopt.codes import pack_codes
from queryopt.errors import MismatchError, UsageError
from queryopt.metrics import ClassScore, chance_average_precision, class_scores, retrieval_metrics, vector_metrics


def codes_at(distances, bits=8):
    """Codes whose distance from the all-zero code is as given."""
    return pack_codes(np.array([[i < d for i in range(bits)] for d in distances], bool).reshape(-1, bits))


def ap(relevant):
    """Average precision of one ranking, straight from its definition."""
    hits, total = 0, 0.0
    for rank, is_relevant in enumerate(relevant, 1):
        if is_relevant:
            hits += 1
            total += hits / rank
    return total / hits


def ap_at(relevant, k):
    """Average precision of the first k ranks, straight from its definition."""
    hits, total = 0, 0.0
    for rank, is_relevant in enumerate(relevant[:k], 1):
        if is_relevant:
            hits += 1
            total += hits / rank
    return total / min(k, sum(relevant))


def orders(distances, relevant):
    """Every order of the items that the distances allow, as lists of relevance."""
    groups = [[r for d, r in zip(distances, relevant, strict=True) if d == g] for g in sorted(set(distances))]
    for choice in itertools.product(*(itertools.permutations(g) for g in groups)):
        yield [r for group in choice for r in group]


@pytest.mark.parametrize(
    ("distances", "relevant"),
    [
        ([1, 1, 1, 2, 2, 2, 5], [1, 0, 0, 1, 1, 0, 1]),
        ([0, 0, 3, 3, 3, 3], [0, 0, 0, 1, 0, 1]),
        ([4, 4, 4, 4, 4, 4], [1, 0, 0, 1, 0, 0]),
        ([1, 2, 3, 4], [0, 1, 0, 1]),
        ([2, 2, 2], [1, 1, 1]),
        ([8], [1]),
    ],
)
def test_it_is_the_mean_over_every_tie_order_and_the_bounds_are_its_ends(distances, relevant):
    every = list(orders(distances, relevant))
    result = retrieval_metrics(codes_at([0]), codes_at(distances), 8, [1], relevant, ks=(1, 2, 3, 5))
    aps = [ap(order) for order in every]
    assert result.map == pytest.approx(np.mean(aps), abs=1e-12)
    assert result.map_optimistic == pytest.approx(max(aps), abs=1e-12)
    assert result.map_pessimistic == pytest.approx(min(aps), abs=1e-12)
    for k, value in result.precision_at.items():
        assert value == pytest.approx(np.mean([sum(order[:k]) / k for order in every]), abs=1e-12)
    for k, value in result.map_at.items():
        assert value == pytest.approx(np.mean([ap_at(order, k) for order in every]), abs=1e-12)


def test_everything_is_what_two_plain_loops_find():
    rng = np.random.default_rng(11)
    bits, ks = 9, (1, 3, 8, 500)
    gallery, queries = rng.integers(0, 2**bits, 70).tolist(), rng.integers(0, 2**bits, 25).tolist()
    gallery[:5] = queries[:5]
    labels, asked = rng.integers(0, 5, 70), rng.integers(0, 6, 25)
    own = np.where(np.arange(25) < 5, np.arange(25), -1)
    found = retrieval_metrics(
        *(np.array(codes, np.uint64) for codes in (queries, gallery)), bits, asked, labels, ks=ks, exclude_self=own
    )
    aps, at_k = [], []
    recall, precision, retrieved, retrieved_relevant = [], [], [], []
    for q, query in enumerate(queries):
        items = [
            ((query ^ code).bit_count(), bool(labels[g] == asked[q])) for g, code in enumerate(gallery) if g != own[q]
        ]
        wanted = sum(relevant for _, relevant in items)
        if not wanted:
            continue
        # Rank by rank: the chance that it holds a relevant item, times that item's precision in the mean.
        total, at, before, relevant_before = 0.0, dict.fromkeys(ks, 0.0), 0, 0
        for distance in range(bits + 1):
            tied = [relevant for d, relevant in items if d == distance]
            n, p = len(tied), sum(tied)
            for j in range(1, n + 1):
                others = (j - 1) * (p - 1) / (n - 1) if n > 1 else 0
                value = p / n * (relevant_before + 1 + others) / (before + j)
                total += value
                for k in ks:
                    at[k] += value if before + j <= k else 0
            before, relevant_before = before + n, relevant_before + p
        aps.append(total / wanted)
        at_k.append([at[k] / min(k, wanted) for k in ks])
        within = [[relevant for d, relevant in items if d <= r] for r in range(bits + 1)]
        retrieved.append([len(each) for each in within])
        retrieved_relevant.append([sum(each) for each in within])
        recall.append([sum(each) / wanted for each in within])
        precision.append([sum(each) / len(each) if each else 0 for each in within])
    assert found.queries == len(aps)
    assert found.skipped_queries == 25 - len(aps) > 0
    assert found.map == pytest.approx(np.mean(aps), abs=1e-12)
    assert list(found.map_at.values()) == pytest.approx(np.mean(at_k, axis=0), abs=1e-12)
    assert found.map_at[500] == pytest.approx(found.map, abs=1e-12)
    assert found.curve.recall == pytest.approx(np.mean(recall, axis=0), abs=1e-12)
    assert found.curve.precision == pytest.approx(np.mean(precision, axis=0), abs=1e-12)
    assert found.curve.retrieved == pytest.approx(np.mean(retrieved, axis=0), abs=1e-12)
    pooled = np.sum(retrieved_relevant, axis=0) / np.maximum(np.sum(retrieved, axis=0), 1)
    assert found.curve.pooled_precision == pytest.approx(pooled, abs=1e-12)
    assert found.curve.recall[-1] == 1
    assert found.to_dict()["curve"]["recall"] == list(found.curve.recall)


def test_a_perfect_ranking_has_a_map_of_one_at_every_k():
    result = retrieval_metrics(codes_at([0]), codes_at([0, 0, 8, 8, 8]), 8, [1], [1, 1, 2, 2, 2], ks=(1, 2, 3, 50))
    assert list(result.map_at.values()) == pytest.approx([1] * 4)
    # Nothing relevant among the two nearest, and one of two among the first three.
    result = retrieval_metrics(codes_at([0]), codes_at([1, 2, 3, 8]), 8, [1], [2, 2, 1, 1], ks=(2, 3))
    assert result.map_at == pytest.approx({2: 0, 3: 1 / 3 / 2})


def test_classes_are_scored_by_their_own_queries_the_worst_first():
    precision = [1, 0.5, np.nan, 0.25, 0.75, np.nan]
    assert class_scores(["b", "a", "a", "a", "c", "d"], precision) == (
        ClassScore("a", 2, 0.375),
        ClassScore("c", 1, 0.75),
        ClassScore("b", 1, 1.0),
    )
    assert class_scores([7, 3, 7], [0.5, 0.5, 0.5]) == (ClassScore(3, 1, 0.5), ClassScore(7, 2, 0.5))
    with pytest.raises(MismatchError, match="1 query labels for 2"):
        class_scores(["a"], [0.5, 0.5])


def test_many_queries_against_random_tie_orders():
    rng = np.random.default_rng(3)
    bits, classes, samples = 10, 6, 3000
    gallery, queries = rng.integers(0, 2, (60, bits)), rng.integers(0, 2, (7, bits))
    gallery_labels, query_labels = rng.integers(0, classes, 60), rng.integers(0, classes, 7)
    result = retrieval_metrics(
        pack_codes(queries), pack_codes(gallery), bits, query_labels, gallery_labels, ks=(4,), radii=(2, 3)
    )
    aps, precisions, recalls = [], [], []
    for code, label in zip(queries, query_labels, strict=True):
        distances = (code != gallery).sum(1)
        shuffled = distances + rng.random((samples, 60))
        ranked = (gallery_labels == label)[np.argsort(shuffled, axis=1)]
        at = ranked.cumsum(1) / np.arange(1, 61)
        aps.append(((at * ranked).sum(1) / ranked.sum(1)).mean())
        precisions.append(at[:, 3].mean())
        recalls.append(
            [(gallery_labels == label)[distances <= r].sum() / (gallery_labels == label).sum() for r in (2, 3)]
        )
    assert result.average_precision == pytest.approx(aps, abs=0.01)
    assert result.map == pytest.approx(np.mean(result.average_precision), abs=1e-12)
    assert result.precision_at[4] == pytest.approx(np.mean(precisions), abs=0.01)
    assert list(result.recall_at_radius.values()) == pytest.approx(np.mean(recalls, axis=0), abs=1e-12)
    assert result.map_pessimistic < result.map < result.map_optimistic


def test_distinct_distances_have_no_ties_to_bound():
    # Relevant at ranks 1 and 3: (1/1 + 2/3) / 2.
    result = retrieval_metrics(
        codes_at([0]), codes_at([0, 1, 2, 3]), 8, ["a"], ["a", "b", "a", "b"], ks=(1, 2, 3), radii=(0, 1, 2)
    )
    assert (result.map, result.map_pessimistic, result.map_optimistic) == pytest.approx(((1 + 2 / 3) / 2,) * 3)
    assert result.precision_at == pytest.approx({1: 1.0, 2: 0.5, 3: 2 / 3})
    assert result.recall_at_radius == {0: 0.5, 1: 0.5, 2: 1.0}
    assert result.precision_at_radius == pytest.approx({0: 1.0, 1: 0.5, 2: 2 / 3})


def test_perfect_codes_score_one():
    codes = codes_at([0] * 5 + [8] * 5)
    labels = np.repeat([0, 1], 5)
    result = retrieval_metrics(codes, codes, 8, labels, labels, ks=(5,))
    assert (result.map, result.map_pessimistic, result.map_optimistic, result.precision_at[5]) == pytest.approx(
        (1, 1, 1, 1)
    )


def test_collapsed_codes_score_chance_however_high_the_optimistic_bound():
    labels = np.arange(400) % 20
    codes = codes_at([3] * 400)
    result = retrieval_metrics(codes, codes, 8, labels, labels, ks=(1, 100))
    assert result.map == pytest.approx(result.chance, abs=1e-12)
    assert result.map < 0.08
    assert result.map_optimistic == pytest.approx(1)
    assert result.precision_at == pytest.approx({1: 0.05, 100: 0.05})


def test_chance_is_the_mean_over_every_random_ranking():
    every = [ap(order) for order in set(itertools.permutations([1, 1, 0, 0, 0, 0]))]
    assert chance_average_precision(2, 6) == pytest.approx(np.mean(every), abs=1e-12)
    assert chance_average_precision(1, 1) == chance_average_precision(7, 7) == pytest.approx(1)
    with pytest.raises(UsageError, match="0 relevant of 4"):
        chance_average_precision(0, 4)


def test_the_formula_holds_its_precision_in_a_large_gallery():
    # The relevant ones among the last 40 of 1.5 million, against a sum over the ranks.
    n0, n, p = 1_500_000, 40, 3
    direct = p * np.mean([(1 + (k - 1) * (p - 1) / (n - 1)) / (n0 + k) for k in range(1, n + 1)]) / p
    gallery = np.zeros(n0 + n, np.uint64)
    gallery[n0:] = 1
    labels = np.zeros(n0 + n, np.int64)
    labels[n0 : n0 + p] = 1
    result = retrieval_metrics(np.zeros(1, np.uint64), gallery, 1, [1], labels, radii=(0, 1))
    assert result.map == pytest.approx(direct, abs=1e-10)


def test_a_query_with_nothing_relevant_is_left_out_and_counted():
    result = retrieval_metrics(codes_at([0, 0, 0]), codes_at([1, 2]), 8, ["a", "only queries", "b"], ["a", "b"])
    assert (result.queries, result.skipped_queries) == (2, 1)
    assert result.map == pytest.approx((1 + 1 / 2) / 2)
    assert result.average_precision == pytest.approx([1, np.nan, 0.5], nan_ok=True)
    with pytest.raises(MismatchError, match="share no label"):
        retrieval_metrics(codes_at([0]), codes_at([1, 2]), 8, ["c"], ["a", "b"])


def test_a_query_in_the_gallery_is_left_out_of_its_own_ranking():
    codes, labels = codes_at([0, 1, 2, 4]), ["a", "b", "a", "lonely"]
    result = retrieval_metrics(codes, codes, 8, labels, labels, exclude_self=[0, -1, 2, 3], ks=(1,))
    # Query 0 sees b at 1, a at 2, lonely at 4: 1/2. Query 1 is not left out, so it finds itself: 1.
    # Query 2 sees b at 1, then a and lonely tied at 2.
    assert result.average_precision == pytest.approx([1 / 2, 1, (1 / 2 + 1 / 3) / 2, np.nan], nan_ok=True)
    assert result.skipped_queries == 1
    with_self = retrieval_metrics(codes, codes, 8, labels, labels, ks=(1,))
    assert with_self.precision_at[1] == 1
    assert result.precision_at[1] == pytest.approx(1 / 3)


def test_a_query_whose_gallery_code_or_label_is_another_is_still_left_out():
    # Label-supervised gallery codes: the query's own row lies at distance 5, and is labelled otherwise.
    result = retrieval_metrics(codes_at([0]), codes_at([5, 5, 6]), 8, [1], [2, 1, 2], exclude_self=[0], radii=(5,))
    assert result.map == pytest.approx(1)
    assert result.precision_at_radius[5] == pytest.approx(1)


def test_leave_one_out_with_nothing_else_of_a_class_says_so():
    with pytest.raises(MismatchError, match="once a query itself is left out"):
        retrieval_metrics(codes_at([0, 1]), codes_at([0, 1]), 8, [1, 2], [1, 2], exclude_self=[0, 1])


def test_precision_beyond_the_gallery_counts_the_missing_items_as_misses():
    result = retrieval_metrics(codes_at([0]), codes_at([1, 2]), 8, [1], [1, 1], ks=(10,), radii=(0,))
    assert result.precision_at[10] == pytest.approx(0.2)
    assert result.precision_at_radius[0] == result.recall_at_radius[0] == 0


def test_small_blocks_give_the_same(monkeypatch):
    rng = np.random.default_rng(5)
    queries, gallery = rng.integers(0, 2**12, 40).astype(np.uint64), rng.integers(0, 2**12, 300).astype(np.uint64)
    labels, others = rng.integers(0, 4, 300), rng.integers(0, 5, 40)
    done = []
    args = (queries, gallery, 12, others, labels)
    whole = retrieval_metrics(*args, progress=done.append, exclude_self=np.arange(40))
    assert sum(done) == 40
    for block, rows in ((1, 1), (7, 3), (64, 40), (301, 16)):
        monkeypatch.setattr(module, "_BLOCK", block)
        monkeypatch.setattr(module, "_QUERIES", rows)
        assert retrieval_metrics(*args, exclude_self=np.arange(40)) == whole


def test_bit_keys_of_one_rank_by_distance():
    rng = np.random.default_rng(6)
    queries, gallery = rng.integers(0, 2**12, 40).astype(np.uint64), rng.integers(0, 2**12, 300).astype(np.uint64)
    args = (queries, gallery, 12, rng.integers(0, 5, 40), rng.integers(0, 4, 300))
    for excluded in (None, np.arange(-20, 20).clip(-1)):
        keyed = retrieval_metrics(*args, exclude_self=excluded, bit_keys=np.ones((40, 12), np.int32))
        assert keyed == retrieval_metrics(*args, exclude_self=excluded)


@pytest.mark.parametrize("block", [1, 40, 1 << 18])
def test_equal_distances_are_ranked_by_margins(monkeypatch, block):
    monkeypatch.setattr("queryopt.metrics._BLOCK", block)
    rng = np.random.default_rng(2)
    bits = 5
    margins = [(rng.choice([-1, 1], (n, bits)) * rng.choice([1, 90, 127], (n, bits))).astype(np.int8) for n in (9, 60)]
    codes = [pack_codes(of > 0) for of in margins]
    labels, others = rng.integers(0, 4, 60), rng.integers(0, 4, 9)
    excluded = np.where(rng.random(9) < 0.5, rng.integers(0, 60, 9), -1)
    found = retrieval_metrics(*codes, bits, others, labels, ks=(1, 7), exclude_self=excluded, margins=tuple(margins))
    for i, own in enumerate(margins[0].astype(int)):
        keys = [(int(((of > 0) != (own > 0)).sum()), int(((of - own) ** 2).sum())) for of in margins[1].astype(int)]
        rows = [row for row in range(60) if row != excluded[i]]
        # The mean over random orders of what is equal in both: each tie's place is drawn anew.
        drawn = []
        for _ in range(200):
            order = sorted(rows, key=lambda row: (*keys[row], rng.random()))
            hits = labels[order] == others[i]
            drawn.append((np.cumsum(hits) / np.arange(1, 60 + (len(rows) == 60)))[hits].mean())
        assert found.average_precision[i] == pytest.approx(np.mean(drawn), abs=0.02)
    by_distance = retrieval_metrics(*codes, bits, others, labels, exclude_self=excluded)
    assert found.recall_at_radius == by_distance.recall_at_radius
    assert by_distance.map_pessimistic < found.map_pessimistic <= found.map_optimistic < by_distance.map_optimistic
    for wrong in (margins[1].astype(np.int64), margins[1][:, :4]):
        with pytest.raises(UsageError, match=r"margins are .*: give int8 \[60, 5\]"):
            retrieval_metrics(*codes, bits, others, labels, margins=(margins[0], wrong))
    with pytest.raises(UsageError, match="two orders"):
        retrieval_metrics(*codes, bits, others, labels, margins=tuple(margins), bit_keys=np.ones((9, 5), int))


@pytest.mark.parametrize("block", [1 << 18, 50])
def test_a_ranking_by_bit_keys_averages_over_equal_keys(monkeypatch, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(7)
    bits = 10
    queries, gallery = (rng.integers(0, 2**bits, n).astype(np.uint64) for n in (6, 40))
    labels, others = rng.integers(0, 3, 40), rng.integers(0, 3, 6)
    bit_keys = rng.integers(0, 3, (6, bits))
    excluded = np.array([-1, 3, -1, 5, 0, 39])
    keyed = retrieval_metrics(
        queries, gallery, bits, others, labels, ks=(1, 7), radii=(2, 4), exclude_self=excluded, bit_keys=bit_keys
    )
    plain = retrieval_metrics(queries, gallery, bits, others, labels, radii=(2, 4), exclude_self=excluded)
    assert keyed.recall_at_radius == plain.recall_at_radius
    assert keyed.precision_at_radius == plain.precision_at_radius
    for i, query in enumerate(queries.tolist()):
        # The codes at distances that are the keys, which small enough keys are: the same ranking, with the same ties.
        keys = [
            sum(int(key) for bit, key in enumerate(bit_keys[i]) if (query ^ code) >> bit & 1)
            for row, code in enumerate(gallery.tolist())
            if row != excluded[i]
        ]
        relevant = (np.delete(labels, excluded[i]) if excluded[i] >= 0 else labels) == others[i]
        expected = retrieval_metrics(codes_at([0], 64), codes_at(keys, 64), 64, [1], relevant.astype(int), ks=(1, 7))
        alone = retrieval_metrics(
            *(queries[i : i + 1], gallery, bits, others[i : i + 1], labels),
            **{"ks": (1, 7), "exclude_self": excluded[i : i + 1], "bit_keys": bit_keys[i : i + 1]},
        )
        assert keyed.average_precision[i] == pytest.approx(expected.map, abs=1e-12)
        assert (alone.map_optimistic, alone.map_pessimistic, alone.chance) == pytest.approx(
            (expected.map_optimistic, expected.map_pessimistic, expected.chance), abs=1e-12
        )
        assert alone.precision_at == pytest.approx(expected.precision_at)


@pytest.mark.parametrize("bits", [1, 8, 12, 63, 64])
def test_packed_and_integer_codes_agree_at_every_length(bits):
    rng = np.random.default_rng(bits)
    queries, gallery = rng.integers(0, 2, (9, bits)), rng.integers(0, 2, (50, bits))
    labels, others = rng.integers(0, 3, 50), rng.integers(0, 3, 9)
    integers = [
        np.array([sum(int(b) << i for i, b in enumerate(code)) for code in side], np.uint64)
        for side in (queries, gallery)
    ]
    packed = retrieval_metrics(pack_codes(queries), pack_codes(gallery), bits, others, labels, radii=(0, bits))
    assert retrieval_metrics(*integers, bits, others, labels, radii=(0, bits)) == packed
    assert packed.recall_at_radius[bits] == 1


@pytest.mark.parametrize(
    ("query_labels", "gallery_labels"),
    [
        (np.array([1, 2], np.uint8), np.array([2, 1, 3], np.int32)),
        (np.array([1, 2], np.uint64), np.array([2, 1, -3], np.int64)),
        (np.array([2**63, 2**63 + 1], np.uint64), np.array([2**63 + 1, 2**63, 0], np.uint64)),
        (["å", "b"], ["b", "å", "a much longer name than the others"]),
        (np.array(["å", "b"], object), np.array(["b", "å", "c"])),
    ],
)
def test_labels_of_every_dtype(query_labels, gallery_labels):
    result = retrieval_metrics(codes_at([0, 0]), codes_at([1, 2, 3]), 8, query_labels, gallery_labels)
    assert result.average_precision == pytest.approx([1 / 2, 1])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"query_labels": [1.0, 2.0]}, UsageError, "query labels are float64"),
        ({"gallery_labels": [[1], [2], [3]]}, UsageError, "one an item"),
        ({"gallery_labels": [None, "a", "b"]}, UsageError, "gallery labels are object"),
        ({"gallery_labels": [1, 2]}, MismatchError, "2 gallery labels for 3 gallery codes"),
        ({"gallery_labels": ["1", "2", "3"]}, MismatchError, "both as integers or both as strings"),
        ({"query_codes": codes_at([0, 1], bits=12)}, UsageError, "codes have shape"),
        ({"bits": 4}, MismatchError, "padding bits"),
        ({"bits": 0}, UsageError, "1 to 64 bits"),
        ({"query_codes": codes_at([]), "query_labels": []}, UsageError, "0 queries and 3 gallery items"),
        ({"gallery_codes": codes_at([]), "gallery_labels": []}, UsageError, "nothing to measure"),
        ({"ks": (0,)}, UsageError, "ks holds 0"),
        ({"ks": (1.5,)}, UsageError, "ks holds 1.5"),
        ({"radii": (9,)}, UsageError, "from 0 to 8"),
        ({"radii": (-1,)}, UsageError, "radii holds -1"),
        ({"exclude_self": [0]}, UsageError, "each of the 2 queries"),
        ({"exclude_self": [0, 3]}, UsageError, "rows are 0..2"),
        ({"exclude_self": [0.0, 1.0]}, UsageError, "exclude_self is float64"),
        ({"bit_keys": np.ones((2, 8))}, UsageError, r"bit_keys are float64 \[2, 8\]: give integers \[2, 8\]"),
        ({"bit_keys": np.ones((3, 8), int)}, UsageError, r"give integers \[2, 8\]"),
        ({"bit_keys": np.full((2, 8), -1)}, UsageError, "negative or too large"),
        ({"bit_keys": np.full((2, 8), 1 << 27)}, UsageError, "sum below 2\\^29"),
    ],
)
def test_wrong_arguments_are_named(change, error, says):
    arguments = {
        "query_codes": codes_at([0, 7]),
        "gallery_codes": codes_at([1, 2, 8]),
        "bits": 8,
        "query_labels": [1, 2],
        "gallery_labels": [1, 2, 3],
    }
    retrieval_metrics(**arguments)
    with pytest.raises(error, match=says):
        retrieval_metrics(**(arguments | change))


def test_vectors_rank_by_their_cosine_whatever_their_length():
    rng = np.random.default_rng(8)
    queries, gallery = rng.normal(size=(12, 5)), rng.normal(size=(40, 5))
    asked, labels = rng.integers(0, 4, 12), rng.integers(0, 3, 40)
    own = np.where(np.arange(12) < 3, np.arange(12), -1)
    gallery[:3] = 7 * queries[:3]
    found = vector_metrics(queries, gallery * rng.uniform(1, 9, (40, 1)), asked, labels, ks=(1, 6), exclude_self=own)
    expected, first = [], []
    for row, query in enumerate(queries):
        order = np.argsort(-gallery @ query / np.linalg.norm(gallery, axis=1))
        relevant = [int(labels[item] == asked[row]) for item in order if item != own[row]]
        if any(relevant):
            expected.append(ap(relevant))
            first.append(relevant[0])
    assert found.map == pytest.approx(np.mean(expected), abs=1e-9)
    assert found.precision_at[1] == np.mean(first)
    assert (found.queries, found.skipped_queries) == (len(expected), 12 - len(expected))


def test_equal_vectors_are_ties_and_one_of_nothing_is_as_far_from_all():
    rng = np.random.default_rng(9)
    vector = rng.normal(size=(1, 700))
    scaled = vector * rng.uniform(0.1, 10, (4, 1))  # equal but for rounding
    result = vector_metrics(vector, scaled, [1], [1, 2, 2, 2], ks=(1,))
    assert result.precision_at[1] == pytest.approx(1 / 4, abs=1e-12)
    assert (result.map_pessimistic, result.map_optimistic) == (pytest.approx(1 / 4), pytest.approx(1))
    nothing = vector_metrics(np.zeros((1, 700)), scaled, [1], [1, 2, 2, 2], ks=(1,))
    assert nothing.map == result.map == pytest.approx(result.chance)


@pytest.mark.parametrize(
    ("queries", "gallery", "error", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), MismatchError, "3 numbers and a gallery of 4"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), UsageError, "finite"),
        (np.ones((2, 3)), np.ones((0, 3)), UsageError, "n >= 1"),
        (np.ones((2, 3)), np.ones((3, 3)), MismatchError, "one label"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(queries, gallery, error, message):
    with pytest.raises(error, match=message):
        vector_metrics(queries, gallery, [1, 2], [1, 2])
