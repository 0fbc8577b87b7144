"""The benchmark of the code solver: that both ways find the same codes."""

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from queryopt.bench.cli.bench import main
from queryopt.bench.speed.solver_speed import SolverSize, make_problem, measure_solver
from queryopt.errors import UsageError

SMALL = ("solver", "--images", "200", "--columns", "20", "--samples", "60", "--classes", "7", "--rounds", "2")


def test_both_ways_find_the_same_codes():
    size = SolverSize(images=300, columns=40, samples=100, classes=9)
    double = measure_solver(size, rounds=1).values["runs"][0]
    assert (double["dtype"], double["differing"], double["entries"]) == ("float64", 0, 12_000)
    part = measure_solver(replace(size, literal_columns=3), dtypes=("float64",), rounds=2).values["runs"][0]
    assert (part["differing"], part["entries"]) == (0, 900)


def test_every_class_is_there_and_samples_are_distinct():
    problem = make_problem(SolverSize(50, 4, 30, 6), seed=1)
    assert set(problem.labels.tolist()) == set(range(6))
    assert len(set(problem.index.tolist())) == 30
    assert torch.equal(problem.codes, make_problem(SolverSize(50, 4, 30, 6), seed=1).codes)
    with pytest.raises(UsageError, match="60 samples of 50 images"):
        make_problem(SolverSize(50, 4, 60, 6), seed=1)


def test_table_and_json():
    done = CliRunner().invoke(main, list(SMALL))
    assert done.exit_code == 0, done.output
    assert "200 images x 20 columns, 60 samples, 7 classes" in done.stdout
    assert "0 of 4,000" in done.stdout
    done = CliRunner().invoke(main, [*SMALL, "--literal-columns", "2", "--json"])
    value = json.loads(done.stdout)
    assert value["literal_columns"] == 2
    assert value["runs"][0]["entries"] == 400
    assert len(value["runs"][1]["rounds"]) == 2
    done = CliRunner().invoke(main, [*SMALL, "--literal-columns", "21"])
    assert done.exit_code == 2
    assert done.stderr.strip().endswith("21 literal columns of 20 in 2 rounds: at least one of each")
