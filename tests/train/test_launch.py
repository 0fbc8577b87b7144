"""What a process knows of its launch."""

import pytest

from queryopt.train.launch import Launch, launched

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("changed", "meant"),
    [
        ({}, Launch(3, 4, 1, 2)),
        ({"LOCAL_WORLD_SIZE": None}, Launch(3, 4, 1, 4)),
        ({"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1"}, None),
        # A cluster's scheduler may say as much of a container, in which nobody started several processes.
        ({"LOCAL_RANK": None}, None),
        ({"MASTER_ADDR": None}, None),
        ({"RANK": "first"}, None),
    ],
)
def test_a_launch_is_what_torchrun_says(changed, meant, monkeypatch):
    for name, value in (TORCHRUN | changed).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert launched() == meant
