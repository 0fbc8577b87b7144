"""The runs of a study: which configurations are trained with which seeds, and where each lies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queryopt.bench.quality.ablation.studies import Arm, Study, select_arms
from queryopt.errors import UsageError
from queryopt.text import did_you_mean, display_path
from queryopt.train.config import TrainConfig
from queryopt.train.methods import DEFAULT_METHOD, find_method
from queryopt.train.presets import find_preset, preset_config

__all__ = ["BUDGETS", "Ablation", "PlannedRun", "arm_config", "only_arms", "plan_runs"]

BUDGETS: Mapping[str, Mapping[str, int]] = {"small": {"iterations": 18, "epochs": 2, "samples": 1200}}
"""Of every run, by preset, where nothing else is said: less than 4 minutes on two idle CPU cores. Other presets have
their own."""

_STUDY = {"codes": "noise", "validation_fraction": 0.0}
"""As in the paper's runs: codes start as noise, and the last iteration is kept, not the best on held-back pictures."""


@dataclass(frozen=True)
class PlannedRun:
    """One training run. folder: its run folder's name below --out. config: without the data's place."""

    arm: Arm
    seed: int
    config: TrainConfig

    @property
    def folder(self) -> str:
        return f"{self.arm.name}-seed{self.seed}"

    @property
    def images(self) -> int:
        """Training views that the run looks at, where the data has at least config.samples pictures."""
        return self.config.iterations * self.config.epochs * self.config.samples


def arm_config(arm: Arm, preset: str, settings: Mapping[str, Any], seed: int) -> TrainConfig:
    """The configuration of an arm: the preset's, the study's, `settings` (what the user gave), and its own, in this
    order. What the arm's method has no use for is left out. UsageError for impossible values.
    """
    chosen = {
        **BUDGETS.get(preset, {}),
        **_STUDY,
        **{k: v for k, v in settings.items() if v is not None},
        **arm.settings,
    }
    unused = find_method(chosen.get("method", DEFAULT_METHOD)).unused
    chosen = {k: v for k, v in chosen.items() if k not in unused}
    usual = find_preset(preset).settings
    if "codes" in chosen and chosen["codes"] == usual.get("codes") and "hold" in usual and "hold" not in chosen:
        # The preset holds its own start for a share of its iterations: here for the same share of these.
        iterations = usual.get("iterations", TrainConfig.iterations)
        chosen["hold"] = max(1, round(usual["hold"] / iterations * chosen.get("iterations", iterations)))
    config = preset_config(preset, **chosen, seed=seed)
    # After the preset, so that what is multiplied is still scaled to the number of pictures.
    return config.override(**{name: getattr(config, name) * factor for name, factor in arm.times.items()})


def plan_runs(arms: Sequence[Arm], preset: str, settings: Mapping[str, Any], seeds: int) -> tuple[PlannedRun, ...]:
    """Every arm with the seeds 1 to `seeds`; all arms with the first seed before any with the second."""
    return tuple(
        PlannedRun(arm, seed, arm_config(arm, preset, settings, seed)) for seed in range(1, seeds + 1) for arm in arms
    )


def only_arms(arms: Sequence[Arm], names: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of these names, in their order; all where no name is given. UsageError for an unknown name."""
    known = {arm.name: arm for arm in arms}
    for name in names:
        if name not in known:
            raise UsageError(f"--only {name}: the arms are {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(known[name] for name in names) if names else tuple(arms)


@dataclass(frozen=True)
class Ablation:
    """Studies with one budget.

    preset: where the options of the runs start from.
    settings: what the user gave beside it, by the names of the configuration's fields; bits among them.
    folder: where the runs lie, a folder each.
    data_set: the name of an official data set, "" for other pictures.
    """

    studies: tuple[Study, ...]
    preset: str
    settings: Mapping[str, Any]
    folder: Path
    data_set: str = ""

    @property
    def bits(self) -> int:
        return int(self.settings["bits"])

    def runs(self, seeds: int, only: Sequence[str] = ()) -> tuple[PlannedRun, ...]:
        """Those of every arm, or of the arms of these names."""
        arms = only_arms(select_arms(self.studies, self.bits), only)
        return plan_runs(arms, self.preset, self.settings, seeds)

    def most_seeds(self) -> int:
        """The largest seed that a run in the folder has, at least 1."""
        seeds = [path.name.rpartition("-seed")[2] for path in self.folder.iterdir() if path.is_dir()]
        return max((int(seed) for seed in seeds if seed.isascii() and seed.isdigit() and len(seed) < 5), default=1)

    def check_folders(self, runs: Sequence[PlannedRun]) -> None:
        """UsageError where a run's folder holds a run of another configuration: one table has one budget."""
        from queryopt.train.checkpoint import read_run_config

        for run in runs:
            folder = self.folder / run.folder
            begun = read_run_config(folder) if folder.is_dir() else None
            if begun is not None and (differences := begun.differences(run.config)):
                raise UsageError(
                    f"{display_path(folder)}: a run of another configuration ({'; '.join(differences)}): give the "
                    "options that it began with, or another --out"
                )
