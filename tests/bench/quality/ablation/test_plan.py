"""What the studies train, and the paper's figures beside them."""

import pytest

from queryopt.bench.quality.ablation.paper import _TABLES, paper_map
from queryopt.bench.quality.ablation.plan import arm_config, only_arms, plan_runs
from queryopt.bench.quality.ablation.studies import STUDIES, find_study, select_arms
from queryopt.errors import UsageError
from queryopt.train.config import TrainConfig
from queryopt.train.methods import build_network
from queryopt.train.starts import CODE_STARTS

ALL = tuple(STUDIES.values())
TINY = {"bits": 12, "iterations": 6}


@pytest.mark.parametrize("bits", [12, 24])
def test_every_arm_is_a_network_and_one_name_is_one_configuration(bits: int) -> None:
    for study in ALL:
        for arm, again in zip(study.arms(bits), plan_runs(study.arms(bits), "tiny", {"bits": bits}, 1), strict=True):
            assert arm is again.arm or arm == again.arm
            build_network(again.config.network)
    configs: dict[str, TrainConfig] = {}
    for study in ALL:
        for run in plan_runs(study.arms(bits), "tiny", {"bits": bits}, 2):
            assert configs.setdefault(run.folder, run.config) == run.config
    assert len({config.to_json() for config in configs.values()}) == len(configs)


def test_arms_differ_in_what_their_study_is_about_alone() -> None:
    def differing(study: str) -> set[str]:
        runs = plan_runs(find_study(study).arms(12), "tiny", TINY, 1)
        lines = [line for run in runs for line in runs[-1].config.differences(run.config)]
        return {line.partition(":")[0] for line in lines}

    assert differing("branches") == {"branches"}
    assert differing("bits") == {"bits", "branches"}
    # (A hash layer has no use for dim and feedforward.)
    assert differing("modules") == {"branches", "fusion", "queries", "method", "dim", "feedforward"}
    assert differing("causes") == {"branches", "gamma", "lr", "codes", "hold", "hold_solver", "optimizer"}


def test_the_modules_are_switched_on_one_by_one() -> None:
    base, s, sq, sqa = (run.config.network for run in plan_runs(find_study("modules").arms(12), "tiny", TINY, 1))
    assert base.method == "adsh"
    assert (s.fusion, s.queries, s.branches) == (True, False, 1)
    assert (sq.fusion, sq.queries, sq.branches) == (True, True, 1)
    assert (sqa.fusion, sqa.queries, sqa.branches) == (True, True, 8)


def test_what_rows_have_in_common_is_the_papers_and_the_budget() -> None:
    for run in plan_runs(select_arms(ALL, 12), "small", {"bits": 12, "open_set": 0.5}, 1):
        config = run.config
        assert (config.iterations, config.epochs, config.samples) == (18, 2, 1200)
        assert config.validation_fraction == 0
        assert config.open_set == 0.5
        last = run.arm.name.rpartition("-")[2]
        codes = "separated" if last == "held" else last if last in CODE_STARTS else "noise"
        if config.method in ("queryopt", "adsh"):
            assert config.codes == codes
            assert config.hold == (0 if codes == "noise" else 8)
            assert config.hold_solver == (last == "held" or codes == "visual")
    [separated] = only_arms(find_study("codes").arms(12), ["n8-separated"])
    assert arm_config(separated, "small", {"bits": 12, "iterations": 9}, 1).hold == 4
    [paper] = plan_runs(find_study("modules").arms(12)[:1], "paper-cub200", {"bits": 12}, 1)
    assert (paper.config.iterations, paper.config.epochs, paper.config.samples) == (40, 30, 2000)


def test_causes_undo_what_comes_with_the_branches() -> None:
    runs = {run.arm.name: run.config for run in plan_runs(find_study("causes").arms(12), "small", TINY, 1)}
    n1, n8 = runs["n1"], runs["n8"]
    images = 3000
    assert n1.scale_gamma
    weight = n1.effective_gamma(images)
    assert weight < n1.gamma
    assert runs["n1-gamma-low"].effective_gamma(images) / 1 == pytest.approx(n8.effective_gamma(images) / 8)
    assert runs["n8-gamma-high"].effective_gamma(images) / 8 == pytest.approx(weight / 1)
    assert runs["n1-sgd-lr"].lr == pytest.approx(8 * runs["n8-sgd"].lr)
    assert runs["n1-lr-2"].lr == 2 * n1.lr


def test_all_rows_come_before_the_second_seed_and_only_chooses_some() -> None:
    arms = only_arms(select_arms(ALL, 12), ["n8", "n1"])
    assert [run.folder for run in plan_runs(arms, "tiny", TINY, 2)] == ["n8-seed1", "n1-seed1", "n8-seed2", "n1-seed2"]
    with pytest.raises(UsageError, match="did you mean hashnet"):
        only_arms(select_arms(ALL, 12), ["hashnt"])


@pytest.mark.parametrize(
    ("data_set", "arm", "bits", "figure"),
    [
        ("cub200", "base", 12, 20.03),
        ("cub200", "S", 24, 59.19),
        ("cub200", "n1", 12, 33.33),
        ("cub200", "n1", 24, 64.94),
        ("cub200", "n8", 12, 72.19),
        ("aircraft", "n2", 12, 65.70),
        ("cub200", "n4", 24, 81.38),
        ("cub200", "n4", 12, 69.46),
        ("food101", "n8", 12, 70.69),
        ("vegfru", "hashnet", 48, 10.29),
        ("nabirds", "base", 12, 2.53),
        ("food101", "n4", 12, None),
        ("food101", "S", 12, None),
        ("cub200", "n8", 16, None),
        ("", "n8", 12, None),
    ],
)
def test_the_papers_figures(data_set: str, arm: str, bits: int, figure: float | None) -> None:
    assert paper_map(data_set, arm, bits) == figure


def test_all_of_the_papers_figures_are_there() -> None:
    """The sums of what its tables print: by data set, of tables 1, 2 and 3."""

    def total(table: str, data_set: str) -> float:
        rows = _TABLES[table][data_set].values()
        return round(sum(sum(row) if isinstance(row, list) else row for row in rows), 2)

    sums = {"cub200": 638.59, "aircraft": 571.15, "food101": 683.06, "nabirds": 229.91, "vegfru": 509.9}
    assert {name: total("methods", name) for name in _TABLES["methods"]} == sums
    assert total("modules", "cub200") == 1002.18
    assert {name: total("branches", name) for name in _TABLES["branches"]} == {"cub200": 371.35, "aircraft": 411.69}
