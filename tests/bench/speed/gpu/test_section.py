"""A section's turn: what fails is left out by name, and the others go on."""

import pytest

from queryopt.bench.speed.gpu.section import SectionReport, Turn
from queryopt.errors import MissingError


class LibraryError(Exception):
    """Of a library that derives its errors from nothing but Exception, as cuda-core does."""


def fail() -> int:
    raise LibraryError("CUDA_ERROR_ILLEGAL_ADDRESS:\n an illegal memory access")


def report(results: object) -> SectionReport:
    return SectionReport({"rows": list(results)})  # type: ignore[call-overload]


def test_whatever_one_raises_the_others_go_on() -> None:
    said: list[str] = []
    kept: list[list[int]] = []
    turn = Turn(log=said.append, keep=lambda report: kept.append(report.values["rows"]))
    jobs = [("one", lambda: 1), ("bad", fail), ("two", lambda: 2)]
    done = turn.attempt_all(jobs, report)
    left_out = [("bad", "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")]
    assert done.values == {"rows": [1, 2], "left_out": left_out}
    assert [table.row_count for table in done.all_tables()] == [1]
    assert kept == [[1], [1], [1, 2]]
    assert said[0] == "without bad: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access"
    assert "in fail" in said[1], "what may be a bug has its traceback in the log"


def test_without_a_result_the_reasons_are_the_error() -> None:
    with pytest.raises(MissingError, match="bad: CUDA_ERROR_ILLEGAL_ADDRESS"):
        Turn().attempt_all([("bad", fail)], report, MissingError)


def test_the_first_is_done_in_any_case_and_others_while_there_is_time() -> None:
    turn = Turn(0.0)
    assert turn.attempt_all([("bad", fail), ("one", lambda: 1), ("two", lambda: 2)], report).values["rows"] == [1]
    assert turn.cut == ["two"]
