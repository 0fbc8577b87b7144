import numpy as np
import pytest

from queryopt.errors import DataError, UsageError
from queryopt.train.closed_form import PENALTIES, SHRINKAGES, _Whitened, fit_labelled, fit_towards, fit_unlabelled

GROUPS = {"one": slice(0, 12), "two": slice(12, 30), "noise": slice(30, 60)}


def made(classes=6, each=14, seed=0, apart=3.0):
    """Features whose first columns tell the classes apart, beside columns of noise that are larger."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    means = rng.standard_normal((classes, 60)) * apart * (np.arange(60) < 30)
    mixing = rng.standard_normal((60, 60)) / 6
    features = means[labels] + rng.standard_normal((len(labels), 60)) @ mixing + 5
    features[:, 30:] *= 40
    order = rng.permutation(len(labels))
    return features[order].astype(np.float32), labels[order]


def codes_of(fitted, features):
    return features @ fitted.weight.T + fitted.bias >= 0


def share_of_nearest(codes, labels):
    distance = (codes[:, None] != codes).sum(axis=2).astype(float)
    np.fill_diagonal(distance, np.inf)
    return (labels[distance.argmin(axis=1)] == labels).mean()


def test_codes_of_labelled_pictures_tell_the_classes_apart_and_leave_the_noise_out():
    features, labels = made()
    fitted = fit_labelled(features, labels, 8, GROUPS, [("noise",), ("one", "two"), ("one",)])
    assert "noise" not in fitted.choice.groups
    assert not fitted.weight[:, 30:].any()
    assert fitted.choice.accuracy > 0.95
    others, names = made(seed=0, each=30)
    assert share_of_nearest(codes_of(fitted, others), names) > 0.9
    bad = fit_labelled(features, labels, 8, GROUPS, [("noise",)])
    assert bad.choice.accuracy < 0.5


@pytest.mark.parametrize("bits", [1, 5, 8, 40])
def test_bits_may_be_more_than_there_are_directions_and_logits_are_to_scale(bits):
    features, labels = made()
    for fitted in (
        fit_labelled(features, labels, bits, GROUPS, [("one", "two")]),
        fit_unlabelled(features, bits, GROUPS, ("one",)),
    ):
        assert fitted.weight.shape == (bits, 60)
        logits = np.abs(features @ fitted.weight.T + fitted.bias)
        assert np.isfinite(logits).all()
        assert np.quantile(logits, 0.999) == pytest.approx(1, rel=1e-3)
        assert len(np.unique(codes_of(fitted, features), axis=0)) > 1


def test_the_same_pictures_give_the_same_codes():
    features, labels = made()
    first, again = (fit_labelled(features, labels, 12, GROUPS, [("one",), ("one", "two")]) for _ in range(2))
    assert first.choice == again.choice
    assert np.array_equal(codes_of(first, features), codes_of(again, features))


@pytest.mark.parametrize(("each", "classes"), [(14, 6), (3, 5)])
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_leave_one_out_is_what_leaving_out_gives(each, classes, shrinkage):
    features, labels = made(classes, each, apart=0.5)
    features = features[:, :30]  # more pictures than columns in one case, fewer in the other
    fitted = _Whitened.of(features, labels, classes).shrunk(shrinkage)
    values = (features - features.mean(axis=0)) / features.std(axis=0)

    def scatter(rows, names):
        means = np.stack([values[rows][names == name].mean(axis=0) for name in range(classes)])
        inside = values[rows] - means[names]
        return means, inside.T @ inside / (len(values) - classes)

    level = np.trace(scatter(np.arange(len(values)), labels)[1]) / 30
    right = 0
    for at in range(len(values)):
        rows = np.delete(np.arange(len(values)), at)
        means, covariance = scatter(rows, labels[rows])
        inverse = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * level * np.eye(30))
        apart = means - values[at]
        right += np.einsum("cd,de,ce->c", apart, inverse, apart).argmin() == labels[at]
    assert fitted.leave_one_out(labels) == pytest.approx(right / len(values))


def test_pictures_that_are_alone_in_their_class_are_fitted_too():
    features, labels = made()
    labels[:2] = [6, 7]
    fitted = fit_labelled(features, labels, 8, GROUPS, [("one",)])
    assert fitted.choice.accuracy > 0.9
    alone = fit_labelled(features[:9], np.arange(9), 4, GROUPS, [("one",)])
    assert np.isfinite(alone.weight).all()


@pytest.mark.parametrize("each", [8, 40])  # fewer pictures than features, and more
def test_a_layer_towards_codes_of_classes_is_the_ridge_regression_that_leaving_out_chooses(each):
    features, labels = made(each=each)
    codes = np.where(np.random.default_rng(4).random((6, 5)) < 0.5, -1, 1).astype(np.int8)
    fitted = fit_towards(features, labels, codes, GROUPS, [("noise",), ("one", "two")])
    assert fitted.choice.groups == ("one", "two")
    assert ((features @ fitted.weight.T + fitted.bias > 0) == (codes[labels] > 0)).mean() > 0.95
    values = (features[:, :30] - features[:, :30].mean(0)) / features[:, :30].std(0)
    targets = codes[labels].astype(float)

    def predicted(rows, asked, penalty):
        centre = targets[rows].mean(axis=0)
        inside = values[rows]
        ridge = penalty * np.square(inside).sum() / len(values) * np.eye(30)
        solved = np.linalg.solve(inside.T @ inside + ridge, inside.T @ (targets[rows] - centre))
        return values[asked] @ solved + centre

    every = np.arange(len(values))
    logits = predicted(every, every, fitted.choice.shrinkage)
    got = features @ fitted.weight.T + fitted.bias
    np.testing.assert_allclose(got, logits * (got / logits).mean(), atol=1e-5)
    errors = {}
    for penalty in PENALTIES:
        left = np.concatenate([predicted(np.delete(every, row), [row], penalty) for row in every])
        errors[penalty] = np.square(left - targets).mean(), ((left > 0) == (targets > 0)).mean()
    least = min(error for error, _ in errors.values())
    assert errors[fitted.choice.shrinkage][0] <= least * 1.02
    assert abs(errors[fitted.choice.shrinkage][1] - fitted.choice.accuracy) < 0.02


def test_what_cannot_be_fitted_is_named():
    features, labels = made()
    with pytest.raises(DataError, match="two classes"):
        fit_labelled(features, np.zeros(len(labels), np.int64), 8, GROUPS, [("one",)])
    features[3, 4] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        fit_unlabelled(features, 8, GROUPS, ("one",))


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_that_are_all_alike_are_refused(count):
    with pytest.raises(DataError, match="no two pictures that differ"):
        fit_unlabelled(np.full((count, 60), 0.1, np.float32), 8, GROUPS, ("one",))


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_pictures_have_codes_of_their_own(count):
    features, _ = made(apart=0.5)
    fitted = fit_unlabelled(features[:count], 16, GROUPS, ("one",))
    assert len(np.unique(codes_of(fitted, features[:count]), axis=0)) == count


def test_without_labels_no_column_or_direction_drowns_the_others():
    """Two groups of pictures, told apart by one column of twelve, the variance of which lies in another."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 12)) @ np.diag([1000.0, *np.ones(11)])
    groups = np.repeat([0, 1], 200)
    features[:, 1:4] += groups[:, None] * 8
    plain, scaled = (
        share_of_nearest(codes_of(fit_unlabelled(f.astype(np.float32), 8, {"one": slice(0, 12)}, ("one",)), f), groups)
        for f in (features, features / features.std(axis=0))
    )
    assert plain == pytest.approx(scaled, abs=0.02)
    assert plain > 0.85
