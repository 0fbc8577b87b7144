"""The sections of qo-bench gpu: each has a name, what it needs, and how it is run."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from rich.table import Table

from queryopt.bench.gpu.engine import measure_engine, open_engine
from queryopt.bench.gpu.peers import GPU_PEERS
from queryopt.bench.gpu.search import measure_gpu_search
from queryopt.bench.search.data import DataSpec
from queryopt.bench.search.peers.base import Task
from queryopt.errors import MissingError, UsageError
from queryopt.text import did_you_mean

__all__ = ["SECTIONS", "GpuOptions", "Log", "Section", "SectionReport", "choose_sections", "run_sections"]

Log = Callable[[str], object]


@dataclass(frozen=True)
class GpuOptions:
    """What sections are asked for; each reads what concerns it.

    runtime: what reaches the GPU, as in `open_runtime`. rounds: timed calls of each thing that is measured. data,
    batches, tasks, peers: of the search. engine: a model.plan, and how many images a run of it takes.
    """

    runtime: str = "auto"
    rounds: int = 7
    data: tuple[DataSpec, ...] = ()
    batches: tuple[int, ...] = (1,)
    tasks: tuple[Task, ...] = (Task(10),)
    peers: tuple[str, ...] = GPU_PEERS
    engine: Path | None = None
    engine_batches: tuple[int, ...] = (1,)


class SectionReport(Protocol):
    """What a section measured."""

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""

    def tables(self) -> list[Table]:
        """For people."""

    def problems(self) -> list[str]:
        """What is wrong, in words; the command then ends with 1."""


@dataclass(frozen=True)
class Section:
    """name: as in --sections. needs: in words. run: measures, and logs as it goes on; MissingError, before it has
    measured anything, where what it needs is not here.
    """

    name: str
    needs: str
    run: Callable[[GpuOptions, Log], SectionReport]


def _run_engine(options: GpuOptions, log: Log) -> SectionReport:
    if options.engine is None:
        raise UsageError("the section engine needs a model.plan: name it with --engine")
    with contextlib.closing(open_engine(options.engine, options.runtime)) as backend:
        return measure_engine(backend, options.engine_batches, rounds=options.rounds, log=log)


def _run_search(options: GpuOptions, log: Log) -> SectionReport:
    return measure_gpu_search(
        options.data,
        options.batches,
        options.tasks,
        peers=options.peers,
        runtime=options.runtime,
        rounds=options.rounds,
        log=log,
    )


SECTIONS: Final[tuple[Section, ...]] = (
    Section("engine", "a GPU, TensorRT, and a model.plan", _run_engine),
    Section("search", "a GPU, and cuda-core or PyCUDA", _run_search),
)
"""In the order in which they are run. Another one is another line."""


def choose_sections(names: Sequence[str]) -> tuple[Section, ...]:
    """The sections of these names; UsageError for another."""
    known = {section.name: section for section in SECTIONS}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no section {name!r}: there are {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(section for section in SECTIONS if section.name in names)


def run_sections(
    sections: Sequence[Section], options: GpuOptions, log: Log = lambda message: None
) -> tuple[dict[str, SectionReport], dict[str, str]]:
    """The reports of the sections that can be run here, and why the others can't, both by name.

    Raises the first MissingError where none can.
    """
    reports: dict[str, SectionReport] = {}
    left_out: dict[str, str] = {}
    errors: list[MissingError] = []
    for section in sections:
        try:
            reports[section.name] = section.run(options, log)
        except MissingError as error:
            errors.append(error)
            left_out[section.name] = f"it needs {section.needs}: {error}"
    if errors and not reports:
        raise errors[0]
    return reports, left_out
