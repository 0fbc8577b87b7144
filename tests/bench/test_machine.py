"""The head of a benchmark's report."""

import json
import sys

import numpy as np
import pytest

import queryopt
from queryopt.bench import machine
from queryopt.bench.machine import Head, take_head


def test_a_head_has_what_belongs_to_all_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "load_average", lambda: 0.75)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/qo-bench", "latency", "--model", "my model.onnx"])
    head = take_head(0.5)
    values = json.loads(json.dumps(head.to_dict()))
    assert list(values) == ["machine", "load", "versions", "date", "command"]
    assert values["load"] == [0.5, 0.75]
    assert values["versions"]["queryopt"] == queryopt.__version__
    assert values["versions"]["numpy"] == np.__version__
    assert values["command"] == "qo-bench latency --model 'my model.onnx'"
    assert f"{head.date}; load average 0.50 before, 0.75 after" in head.text
    assert take_head(0.5, {"faiss": "1"}).versions == {"faiss": "1"}


def test_where_the_system_does_not_say_there_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert take_head(None).load is None
    assert Head("a machine", None, {}, "2026-01-01 00:00 UTC", "").text == "a machine\n2026-01-01 00:00 UTC"
    monkeypatch.setattr(machine, "_field", lambda path, name: None)
    assert machine.available_memory() is None
    assert "usable core" in machine.describe_machine()
