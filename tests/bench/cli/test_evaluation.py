"""qo-bench evaluate."""

import json

from click.testing import CliRunner

from queryopt.bench.cli.bench import main

SMALL = ("evaluate", "--queries", "40", "--gallery", "50", "--bits", "8", "--classes", "3", "--sample", "10")


def test_table_and_json() -> None:
    done = CliRunner().invoke(main, [*SMALL, "--rounds", "1"])
    assert done.exit_code == 0, done.output
    assert "40 queries, 50 gallery items, 8 bits, 3 classes" in done.stdout
    assert "loop over 10 queries, as published" in done.stdout
    done = CliRunner().invoke(main, [*SMALL, "--rounds", "2", "--json"])
    value = json.loads(done.stdout)
    assert len(value["rounds"]) == 2
    assert value["drop_queries"] == 40


def test_a_sample_larger_than_all_is_refused_in_one_line() -> None:
    done = CliRunner().invoke(main, [*SMALL[:-1], "41"])
    assert done.exit_code == 2
    assert done.stderr.strip().splitlines()[-1].endswith("a sample of 41 of 40 queries: 1 to all of them")
