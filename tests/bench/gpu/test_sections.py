"""Sections that can be run are run, and the others are named."""

from typing import Any

import pytest
from rich.table import Table

from queryopt.bench.gpu.sections import SECTIONS, GpuOptions, Log, Section, choose_sections, run_sections
from queryopt.errors import MissingError, UsageError


class Report:
    def to_dict(self) -> dict[str, Any]:
        return {"seen": 1}

    def tables(self) -> list[Table]:
        return []

    def problems(self) -> list[str]:
        return []


def missing(options: GpuOptions, log: Log) -> Report:
    raise MissingError("there is no TensorRT")


HERE = Section("here", "nothing", lambda options, log: Report())
AWAY = Section("away", "a GPU", missing)


def test_what_can_be_run_is_run() -> None:
    reports, left_out = run_sections([AWAY, HERE], GpuOptions())
    assert {name: report.to_dict() for name, report in reports.items()} == {"here": {"seen": 1}}
    assert left_out == {"away": "it needs a GPU: there is no TensorRT"}


def test_where_none_can_be_run_the_first_reason_is_given() -> None:
    with pytest.raises(MissingError, match="there is no TensorRT"):
        run_sections([AWAY, AWAY], GpuOptions())


def test_names() -> None:
    assert choose_sections([section.name for section in SECTIONS]) == SECTIONS
    with pytest.raises(UsageError, match=r"no section 'serach': there are engine, search; did you mean search\?"):
        choose_sections(["serach"])


def test_an_engine_has_to_be_named() -> None:
    with pytest.raises(UsageError, match="name it with --engine"):
        run_sections(choose_sections(["engine"]), GpuOptions())
