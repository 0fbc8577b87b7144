import pytest
from PIL import Image

from queryopt.train.plots import save_curves


def line(outer, inner, **more):
    parts = {"loss": 3.0 / (outer + 1), "hash_loss": 2.0 / (outer + 1), "quantisation_loss": 1.0 / (outer + 1)}
    return {"outer": outer, "inner": inner, "lr": 1e-3, **parts, **more}


@pytest.mark.parametrize("validated", [False, True])
def test_curves_are_a_picture(tmp_path, validated):
    more = {"map": 0.5, "map_paper": 0.6, "chance": 0.1} if validated else {}
    save_curves(tmp_path / "curves.png", [line(0, 0), line(0, 1, **more), line(1, 0), line(1, 1, **more)])
    with Image.open(tmp_path / "curves.png") as curves:
        curves.load()
        assert len(curves.convert("RGB").getcolors(1 << 20)) > 50


def test_nothing_is_drawn_of_nothing(tmp_path):
    save_curves(tmp_path / "curves.png", [])
    assert not (tmp_path / "curves.png").exists()
