"""Tables of studies."""

import io

import pytest
from PIL import Image

from queryopt.bench.quality.ablation.report import cells, markdown, plot_study, study_table
from queryopt.bench.quality.ablation.studies import find_study


def result(arm: str, seed: int, score: float, **more: object) -> dict[str, object]:
    return {"arm": arm, "seed": seed, "seconds": 100.0, "deployed": {"map": score}, **more}


def test_mean_and_spread_over_seeds_beside_the_papers_row() -> None:
    results = [
        result("n1", 2, 0.5, paper={"map": 0.6}),
        result("n1", 1, 0.3, paper={"map": 0.4}),
        result("n8", 1, 0.7),
        result("dpsh", 1, 0.1),
    ]
    table = study_table(find_study("branches"), 12, results, "cub200")
    n1, n8 = table.rows
    assert (n1.seeds, n1.paper, n8.paper) == ((1, 2), 33.33, 72.19)
    value = n1.values["deployed"]
    assert (value.mean, value.low, value.high) == (0.4, 0.3, 0.5)
    assert value.spread == pytest.approx(0.1414, abs=1e-4)
    assert table.missing == ("n2", "n4", "n6", "n12")
    heading, lines = cells(table)
    assert heading == ["", "seeds", "seen: deployed", "solved gallery", "seconds", "the paper"]
    assert lines[0] == ["N = 1", "2", "0.400 ± 0.141", "0.500 ± 0.141", "100 ± 0", "33.33 %"]
    assert lines[1] == ["N = 8", "1", "0.700", "–", "100", "72.19 %"]
    text = markdown([table], ["`qo-bench …`"])
    assert "| N = 8 | 1 | 0.700 | – | 100 | 72.19 % |" in text
    assert "Not run yet: n2, n4, n6, n12." in text


def test_without_an_official_data_set_there_is_no_column_of_the_paper() -> None:
    table = study_table(find_study("methods"), 12, [result("dpsh", 1, 0.2)])
    assert not table.has_paper
    assert "the paper" not in cells(table)[0]


@pytest.mark.parametrize("results", [[], [result("n1", 1, 0.2), result("n8", 1, 0.4, unseen={"map": 0.1})]])
def test_a_picture_is_drawn(results: list[dict[str, object]]) -> None:
    file = io.BytesIO()
    plot_study(study_table(find_study("branches"), 12, results, "cub200"), file)
    with Image.open(file) as image:
        assert image.format == "PNG"
