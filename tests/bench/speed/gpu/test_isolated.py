"""Sections in processes of their own: whatever one does, the others' results are there, and in time."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from queryopt.bench.speed.gpu.isolated import run_isolated, run_sections
from queryopt.bench.speed.gpu.section import GpuOptions, Outcome, Section

SECTIONS = """
import os, signal, time
from queryopt.bench.speed.gpu.section import SectionReport
from queryopt.errors import MissingError, UsageError

def Report(rows):
    return SectionReport({"rows": rows})

def fine(options, turn):
    print("a library's own words, on stdout")
    turn.log(f"on {options.device}")
    return Report(3)

def crash(options, turn):
    turn.keep(Report(1))
    os.write(2, b"CUDA error: an illegal memory access\\n")
    os.kill(os.getpid(), signal.SIGSEGV)

def hang(options, turn):
    turn.keep(Report(2))
    time.sleep(600)

def slow(options, turn):
    return Report([what for what in ("little", "a lot") if turn.has(0 if what == "little" else 1e6, what)])

def bug(options, turn):
    raise ZeroDivisionError("seven by nothing")

def missing(options, turn):
    raise MissingError("there is no TensorRT")

def wrong(options, turn):
    raise UsageError("not so")
"""


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "gpu_sections_for_tests.py").write_text(SECTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of the processes
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("gpu_sections_for_tests")
    del sys.modules["gpu_sections_for_tests"]


def section(sections: Any, name: str, share: float = 1) -> Section:
    return Section(name, "a wonder", share, getattr(sections, name))


def brief(outcome: Outcome) -> tuple[str, Any]:
    return outcome.state, None if outcome.report is None else outcome.report.values["rows"]


def test_a_crash_a_bug_and_what_is_missing_lose_no_other_section(sections: Any, tmp_path: Path) -> None:
    said: list[str] = []
    names = ("crash", "missing", "bug", "wrong", "slow", "fine")
    options = GpuOptions(rehearse=True, folder=tmp_path)
    found = {o.section: o for o in run_sections([section(sections, name) for name in names], options, 240, said.append)}
    assert {name: brief(outcome) for name, outcome in found.items()} == {
        "crash": ("failed", 1),
        "missing": ("missing", None),
        "bug": ("failed", None),
        "wrong": ("failed", None),
        "slow": ("cut short", ["little"]),
        "fine": ("done", 3),
    }
    assert "SIGSEGV" in found["crash"].reason
    assert "an illegal memory access" in found["crash"].reason
    assert found["missing"].reason == "it needs a wonder: there is no TensorRT"
    assert found["bug"].reason == "ZeroDivisionError: seven by nothing"
    assert found["wrong"].reason == "not so"
    assert found["slow"].reason == "without a lot"
    assert "fine: on cpu" in said
    assert any("in bug" in line for line in said), "a bug's traceback is logged"


def test_one_that_hangs_is_ended_with_what_it_has(sections: Any) -> None:
    outcome = run_isolated(section(sections, "hang"), GpuOptions(), 6)
    assert brief(outcome) == ("cut short", 2)
    assert outcome.reason == "it was ended after 6 s"


def test_where_no_time_is_left_nothing_is_started(sections: Any) -> None:
    outcomes = list(run_sections([section(sections, "fine")], GpuOptions(), -1))
    assert [brief(outcome) for outcome in outcomes] == [("cut short", None)]
