"""The sections of qo-bench gpu, in the order in which they are run. Another one is another line here."""

from collections.abc import Sequence
from typing import Final

from queryopt.bench.speed.gpu.engine import measure_engine
from queryopt.bench.speed.gpu.files import measure_files
from queryopt.bench.speed.gpu.model import measure_model
from queryopt.bench.speed.gpu.models import measure_models
from queryopt.bench.speed.gpu.parity import measure_parity
from queryopt.bench.speed.gpu.search import measure_search
from queryopt.bench.speed.gpu.section import Section
from queryopt.bench.speed.gpu.steps import measure_steps
from queryopt.errors import UsageError
from queryopt.text import did_you_mean

__all__ = ["SECTIONS", "choose_sections"]

SECTIONS: Final[tuple[Section, ...]] = (
    Section("models", "the packages of training", 90, measure_models),
    Section("engine", "a GPU, TensorRT, and a model.plan", 80, measure_engine),
    Section("parity", "the packages of training", 90, measure_parity),
    Section("model", "a GPU, and PyTorch that sees it", 120, measure_model),
    Section("files", "a GPU, and something that runs a model there", 60, measure_files),
    Section("search", "a GPU, and cuda-core or PyCUDA", 70, measure_search),
    Section("train-step", "the packages of training", 40, measure_steps),
)


def choose_sections(names: Sequence[str]) -> tuple[Section, ...]:
    """The sections of these names; UsageError for another."""
    known = {section.name: section for section in SECTIONS}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no section {name!r}: there are {', '.join(known)}{did_you_mean(name, known)}")
    return tuple(section for section in SECTIONS if section.name in names)
