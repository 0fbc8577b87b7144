"""The picture of the counts."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from queryopt.bench.speed.flops import flop_report
from queryopt.bench.speed.flops_plot import plot_flops
from queryopt.train.network_config import NetworkConfig

LIKE_THE_PAPERS = {"backbone": "resnet50", "image_size": 224}


@pytest.mark.parametrize("settings", [LIKE_THE_PAPERS, {}, {"queries": False}, {"fusion": False, "branches": 1}])
def test_a_bar_is_drawn_for_each_part(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = NetworkConfig.from_dict({"bits": 12, "backbone": "resnet18", "image_size": 64, **settings})
    plot_flops(flop_report(config), tmp_path / "flops.png")
    with Image.open(tmp_path / "flops.png") as file:
        image = file.convert("RGB")
    assert image.width > 1000
    colours = {colour for count, colour in image.getcolors(1 << 20) or [] if count > 1000}
    assert ((0xB9, 0xBF, 0xC9) in colours) == (settings is LIKE_THE_PAPERS)  # the paper's rows
    assert (0x33, 0x60, 0x8C) in colours  # backbone
    assert ((0x5B, 0x9A, 0xC2) in colours) == settings.get("fusion", True)
    assert ((0xC6, 0x54, 0x3C) in colours) == settings.get("queries", True)  # decoder
