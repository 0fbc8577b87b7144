"""Train and measure the runs of a study, each in its own run folder, and go on where an earlier call stopped."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from queryopt.bench.machine import load_average, take_head
from queryopt.bench.quality.ablation.measure import measure_run
from queryopt.bench.quality.ablation.plan import Ablation, PlannedRun
from queryopt.bench.quality.ablation.report import StudyTable, markdown, plot_study, study_table
from queryopt.errors import QueryOptError
from queryopt.files import replacing
from queryopt.progress import Advance, Progress, no_progress
from queryopt.text import display_path, parse_json
from queryopt.train.config import TrainConfig
from queryopt.train.loop import train
from queryopt.train.threads import torch_threads

__all__ = ["RESULT", "RunOutcome", "read_result", "run_all", "seconds_for", "write_tables"]

RESULT = "result.json"
"""What a run's folder holds once it is measured."""
_FORMAT = 1
_TIMED_STEPS = 5


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run. result: as in result.json, None where it failed. reason: why it failed. fresh: whether it
    was trained or measured now.
    """

    run: PlannedRun
    result: Mapping[str, Any] | None
    reason: str = ""
    fresh: bool = True


def run_all(
    runs: Sequence[PlannedRun],
    out: Path,
    data: str,
    *,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Iterator[RunOutcome]:
    """Train and measure one run after another.

    out: where the run folders are. data: see queryopt.train.sources. A run that is done is not done again, one that was
    stopped goes on; one that fails is an outcome with a reason, and the next one begins. Ctrl-C saves and raises
    KeyboardInterrupt.
    """
    for run in runs:
        folder = out / run.folder
        if (result := read_result(folder, run.config)) is not None:
            yield RunOutcome(run, result, fresh=False)
            continue
        config = replace(run.config, data=data, threads=threads, device=device)
        try:
            result = _run(run, config, folder, progress or no_progress)
        except (QueryOptError, OSError) as error:
            yield RunOutcome(run, None, str(error))
            continue
        yield RunOutcome(run, result)


def read_result(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """A run's result.json, None where there is none of this configuration that can be read."""
    try:
        values = parse_json((folder / RESULT).read_bytes())
        same = not TrainConfig.from_dict(values["config"], display_path(folder)).differences(config)
    except (OSError, ValueError, KeyError, TypeError, QueryOptError):
        return None
    return values if same and values.get("format_version") == _FORMAT else None


def write_tables(ablation: Ablation, data: str) -> tuple[list[StudyTable], list[str]]:
    """Write the tables over all measured runs of these studies: studies.json, studies.md, and a PNG a study.

    data: as it was given. Returns the tables, and the files' names.
    """
    runs = ablation.runs(ablation.most_seeds())
    results = [r for run in runs if (r := read_result(ablation.folder / run.folder, run.config)) is not None]
    tables = [study_table(study, ablation.bits, results, ablation.data_set) for study in ablation.studies]
    head = take_head(None)
    values = {
        "format_version": 1,
        **head.to_dict(),
        "data": data,
        "tables": [table.to_dict() for table in tables],
        "runs": results,
    }
    about = [f"`{head.command}`", f"{head.machine}; torch {head.versions['torch']}"]
    with replacing(ablation.folder / "studies.json") as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")
    with replacing(ablation.folder / "studies.md") as file:
        file.write(markdown(tables, about).encode())
    pictures = [f"{table.study}.png" for table in tables]
    for table, name in zip(tables, pictures, strict=True):
        with replacing(ablation.folder / name) as file:
            plot_study(table, file)
    return tables, ["studies.json", "studies.md", *pictures]


def seconds_for(config: TrainConfig, images: int, threads: int | None = None) -> float:
    """About how long a run over so many training views takes here: a few of its steps, on noise, are timed.

    Without decoding, solving and measuring.
    """
    import torch

    from queryopt.train.loss import hashing_loss
    from queryopt.train.methods import build_network

    network = build_network(config.network).train()
    batch, size, columns = config.batch, config.network.image_size, config.network.bits * config.network.branches
    pictures = torch.randn(batch, 3, size, size)
    codes = torch.randn(batch, columns).sign()
    labels = torch.arange(batch)
    times = []
    with torch_threads(threads):
        for _ in range(_TIMED_STEPS):
            begun = time.perf_counter()
            hashing_loss(torch.tanh(network(pictures)), codes, labels, labels, labels, 1.0).total.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - begun)
    return sorted(times)[_TIMED_STEPS // 2] * images / batch


def _run(run: PlannedRun, config: TrainConfig, folder: Path, progress: Progress) -> dict[str, Any]:
    import torch

    load_before = load_average()
    progress = _named(progress, run.folder)
    trained = train(config, None, folder, resume=True, progress=progress)
    measured = measure_run(folder, threads=config.threads, progress=progress)
    result = {
        "format_version": _FORMAT,
        "arm": run.arm.name,
        "seed": run.seed,
        "images": trained.images,
        "skipped": len(trained.skipped),
        "seconds": round(trained.seconds, 1),
        "threads": config.threads or torch.get_num_threads(),
        "load_average": [load_before, load_average()],
        **measured,
        "config": config.to_dict() | {"data": ""},
    }
    with replacing(folder / RESULT) as file:
        file.write(json.dumps(result, indent=2).encode() + b"\n")
    return result


def _named(progress: Progress, name: str) -> Progress:
    """The same bars, with the run's name in front."""

    def named(description: str, total: int | None, unit: str = "images") -> AbstractContextManager[Advance]:
        return progress(f"{name}: {description}", total, unit)

    return named
