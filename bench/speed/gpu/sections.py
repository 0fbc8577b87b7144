"""The sections of qo-bench gpu, in the order in which they are run. Another one is another line here."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from queryopt.bench.speed.gpu.engine import EngineReport, build_here, measure_engine, open_engine
from queryopt.bench.speed.gpu.files import measure_files
from queryopt.bench.speed.gpu.model import measure_model
from queryopt.bench.speed.gpu.models import export_models, need_model
from queryopt.bench.speed.gpu.parity import measure_parity
from queryopt.bench.speed.gpu.search import GpuReport, measure_gpu_search
from queryopt.bench.speed.gpu.section import GpuOptions, Section, Turn
from queryopt.bench.speed.gpu.steps import measure_steps
from queryopt.errors import UsageError
from queryopt.runtime.tensorrt.profile import Profile
from queryopt.text import did_you_mean

__all__ = ["SECTIONS", "choose_sections"]


def _run_engine(options: GpuOptions, turn: Turn) -> EngineReport:
    plan = options.engine or _build(options, turn)
    with contextlib.closing(open_engine(plan, options)) as backend:
        return measure_engine(backend, options.engine_batches, rounds=options.rounds, turn=turn)


def _build(options: GpuOptions, turn: Turn) -> Path:
    """An engine of the section `models`' model, for this GPU. MissingError where no TensorRT here builds one for it."""
    need_model(options, "fp16")
    plan = options.model("fp16", ".plan")
    if not options.rehearse:  # which runs the model itself
        largest = max(*options.engine_batches, *options.model_batches)
        turn.log(f"built in {build_here(options.model('fp16'), plan, Profile(1, largest, largest)):.1f} s")
    return plan


def _run_search(options: GpuOptions, turn: Turn) -> GpuReport:
    return measure_gpu_search(
        options.data,
        options.batches,
        options.tasks,
        peers=options.peers,
        runtime=options.runtime,
        rounds=options.rounds,
        turn=turn,
    )


SECTIONS: Final[tuple[Section, ...]] = (
    Section("models", "the packages of training", 90, export_models),
    Section("engine", "a GPU, TensorRT, and a model.plan", 80, _run_engine),
    Section("parity", "the packages of training", 90, measure_parity),
    Section("model", "a GPU, and PyTorch that sees it", 120, measure_model),
    Section("files", "a GPU, and something that runs a model there", 60, measure_files),
    Section("search", "a GPU, and cuda-core or PyCUDA", 70, _run_search),
    Section("train-step", "the packages of training", 40, measure_steps),
)


def choose_sections(names: Sequence[str]) -> tuple[Section, ...]:
    """The sections of these names; UsageError for another."""
    known = {section.name: section for section in SECTIONS}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no section {name!r}: there are {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(section for section in SECTIONS if section.name in names)
