import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def undrawn(monkeypatch):
    """Runs draw no curves, which take a third of a tiny run's time. (Those of fixtures of a module do draw them.)"""
    monkeypatch.setattr("queryopt.train.runs.save_curves", lambda path, lines: None)


@pytest.fixture(scope="session")
def labelled_folder(tmp_path_factory):
    """Four classes of 30 pictures, 40 x 40: each class has a colour of its own, under noise. Not to be changed."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for name, colour in {
        "ash": (200, 60, 60),
        "elm": (60, 200, 60),
        "fir": (60, 60, 200),
        "oak": (190, 190, 60),
    }.items():
        (root / name).mkdir()
        for number in range(30):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02}.png")
    return root
