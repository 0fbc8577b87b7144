"""Which network a backbone's name stands for."""

import pytest

from queryopt.bench.speed.untrained import network_config
from queryopt.errors import UsageError
from queryopt.train.network_config import NetworkConfig
from queryopt.train.presets import preset_config


def test_a_resnet_makes_the_papers_network() -> None:
    assert network_config(24) == NetworkConfig(24)
    assert network_config(24, "resnet18", branches=3, image_size=160) == NetworkConfig(
        24, backbone="resnet18", branches=3, image_size=160
    )


@pytest.mark.parametrize("name", ["small", "tiny"])
def test_a_small_trunk_makes_the_network_that_training_makes(name: str) -> None:
    assert network_config(12, name) == preset_config(name, bits=12).network
    assert network_config(12, name, branches=2, image_size=80).branches == 2


def test_what_makes_no_network_is_refused() -> None:
    with pytest.raises(UsageError, match="did you mean"):
        network_config(12, "resnet5")
    with pytest.raises(UsageError, match="image_size is 8"):
        network_config(12, "tiny", image_size=8)
