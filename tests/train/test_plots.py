import pytest
from PIL import Image

from queryopt.train.plots import draw_curves, save_curves


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


@pytest.mark.parametrize("iterations", [1, 5, 18])
def test_no_legend_lies_on_the_curves_and_ticks_are_whole_iterations(iterations):
    quality = {"map": 0.02, "map_paper": 0.99, "chance": 0.02}
    figure = draw_curves([line(outer, 0, classification_loss=9.0, **quality) for outer in range(iterations)])
    figure.canvas.draw()
    legends = [(axis, axis.get_legend()) for axis in figure.axes if axis.get_legend() is not None]
    assert len(legends) == 2
    for axis, legend in legends:
        box = legend.get_window_extent()
        assert not box.overlaps(axis.get_window_extent())
        assert not box.overlaps(axis.xaxis.label.get_window_extent())
        assert box.y0 >= 0
    assert all(tick == round(tick) for axis in figure.axes for tick in axis.get_xticks())


def test_nothing_is_drawn_of_nothing(tmp_path):
    save_curves(tmp_path / "curves.png", [])
    assert not (tmp_path / "curves.png").exists()
