"""What each study trains: its arms, as settings that differ from one another in what the study is about and in nothing
else. An arm that several studies have has one name, and is trained once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from queryopt.bench.quality.ablation.paper import PAPER_BITS
from queryopt.errors import UsageError
from queryopt.text import did_you_mean
from queryopt.train.starts import CODE_STARTS

__all__ = ["STUDIES", "Arm", "Study", "find_study", "select_arms"]

_PAPER_COLUMNS = 96
_BRANCHES = (1, 2, 4, 6, 8, 12)
_PAIRS = 48


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    name: a part of its runs' folder names, unique for its settings. label: what the table calls it. settings: fields of
    TrainConfig and NetworkConfig by name, over those that all arms share. times: fields that are multiplied by a
    factor, whatever they are otherwise (`gamma` stays scaled to the number of pictures). paper: the paper's row that
    it re-runs, as `paper.paper_map` knows it.
    """

    name: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    paper: str = ""


@dataclass(frozen=True)
class Study:
    """A table: its name for --study, its title, and its arms for a code length."""

    name: str
    title: str
    arms: Callable[[int], tuple[Arm, ...]]


_BASE = Arm("base", "adsh", {"method": "adsh"}, paper="base")
_HELD = Arm("n1-held", "N = 1, separated, never solved", {"branches": 1, "codes": "separated", "hold_solver": True})


def _named(label: str, arm: Arm) -> Arm:
    """The same arm, as a study calls it."""
    return replace(arm, label=label)


def _branches(count: int) -> Arm:
    return Arm(f"n{count}", f"N = {count}", {"branches": count}, paper=f"n{count}")


def _most(bits: int) -> int:
    """The paper's N: as many as fit 96 columns."""
    return max(1, _PAPER_COLUMNS // bits)


def _branch_arms(bits: int) -> tuple[Arm, ...]:
    return tuple(_branches(count) for count in _BRANCHES)


def _module_arms(bits: int) -> tuple[Arm, ...]:
    """Table 2. A hash layer on pooled features; S: top-down fusion of two scales and the encoder, pooled; Q: a query a
    bit that looks at them; A: the rolled copies.
    """
    most = _most(bits)
    return (
        _named("base (a hash layer: adsh)", _BASE),
        Arm("S", "+ S (two scales, encoder)", {"queries": False, "fusion": True, "branches": 1}, paper="S"),
        _named("+ S + Q (queries: N = 1)", _branches(1)),
        _named(f"+ S + Q + A (N = {most})", _branches(most)),
    )


def _bit_arms(bits: int) -> tuple[Arm, ...]:
    return tuple(
        Arm(
            f"n{_most(length)}" if length == bits else f"{length}bits-n{_most(length)}",
            f"{length} bits (N = {_most(length)})",
            {"bits": length, "branches": _most(length)},
            paper=f"n{_most(length)}",
        )
        for length in PAPER_BITS
    )


def _method_arms(bits: int) -> tuple[Arm, ...]:
    """Table 1. dpsh and hashnet also with batches that hold pairs of one class: 16 pictures of 100 classes make one."""
    most = _most(bits)
    pairwise = (("dpsh", "dpsh"), ("hashnet", "hashnet"))
    return (
        *(Arm(name, label, {"method": name}, paper=name) for name, label in pairwise),
        *(
            Arm(f"{name}-b{_PAIRS}", f"{label}, batches of {_PAIRS}", {"method": name, "batch": _PAIRS}, paper=name)
            for name, label in pairwise
        ),
        _named("adsh", _BASE),
        _named(f"queryopt (N = {most})", _branches(most)),
    )


def _code_arms(bits: int) -> tuple[Arm, ...]:
    """Every way in which the solved codes can start, without and with the auxiliary branch. (Visual ones stay so.)"""
    counts = dict.fromkeys((1, _most(bits)))
    return (*(_start(codes, count) for count in counts for codes in CODE_STARTS), _HELD)


def _start(codes: str, count: int) -> Arm:
    if codes == "noise":  # the paper's, and so the studies'
        return _named(f"N = {count}, noise", _branches(count))
    return Arm(f"n{count}-{codes}", f"N = {count}, {codes} start", {"branches": count, "codes": codes})


def _cause_arms(bits: int) -> tuple[Arm, ...]:
    """What comes with N besides N, one at a time.

    gamma: the loss and the solver weigh quantisation by gamma / M, so N branches weigh it N times less against the
    hash term. lr: N times as many columns are summed into shared weights, which plain gradient descent feels as an N
    times larger learning rate (AdamW doesn't: hence the arms with SGD). codes: what classes share a code to begin with.
    """
    most = _most(bits)
    one, many = {"branches": 1}, {"branches": most}
    sgd = {"optimizer": "sgd"}
    return (
        _branches(1),
        Arm("n1-gamma-low", f"N = 1, gamma / {most} (as N = {most} weighs it)", one, {"gamma": 1 / most}),
        Arm("n1-lr-2", "N = 1, learning rate x 2", one, {"lr": 2.0}),
        Arm("n1-lr-half", "N = 1, learning rate / 2", one, {"lr": 0.5}),
        _start("separated", 1),
        _HELD,
        _branches(most),
        Arm(f"n{most}-gamma-high", f"N = {most}, gamma x {most} (as N = 1 weighs it)", many, {"gamma": float(most)}),
        Arm(f"n{most}-lr-2", f"N = {most}, learning rate x 2", many, {"lr": 2.0}),
        Arm(f"n{most}-lr-half", f"N = {most}, learning rate / 2", many, {"lr": 0.5}),
        _start("separated", most),
        Arm("n1-sgd", "N = 1, SGD", one | sgd, {"lr": 10.0}),
        Arm("n1-sgd-lr", f"N = 1, SGD, learning rate x {most}", one | sgd, {"lr": 10.0 * most}),
        Arm(f"n{most}-sgd", f"N = {most}, SGD", many | sgd, {"lr": 10.0}),
    )


STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("branches", "Number of branches N (Table 3)", _branch_arms),
        Study("modules", "Modules (Table 2)", _module_arms),
        Study("bits", "Length of the code (Table 1, ours)", _bit_arms),
        Study("methods", "Methods (Table 1)", _method_arms),
        Study("codes", "How the solved codes start", _code_arms),
        Study("causes", "What changes with N: gamma, learning rate, shared codes", _cause_arms),
    )
}


def find_study(name: str) -> Study:
    """The study of this name. UsageError with a suggestion for any other name."""
    if name not in STUDIES:
        raise UsageError(f"no study is called {name!r}: there are {', '.join(STUDIES)}{did_you_mean(name, STUDIES)}")
    return STUDIES[name]


def select_arms(studies: Sequence[Study], bits: int) -> tuple[Arm, ...]:
    """The arms of these studies, each once, in order."""
    return tuple({arm.name: arm for study in studies for arm in study.arms(bits)}.values())
