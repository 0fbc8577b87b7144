import pytest
import torch

from queryopt.train.presets import preset_config
from queryopt.train.schedule import rates_at


@pytest.mark.parametrize("steps", [20, 21, 480])
def test_one_cycle_is_torchs(steps):
    config = preset_config("small", lr=3e-3)
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        rates = rates_at(config, 0, step, steps)
        assert rates.lr == pytest.approx(optimizer.param_groups[0]["lr"])
        assert rates.beta1 == pytest.approx(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        if step < steps - 1:
            schedule.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_of_a_few_steps_stays_finite(steps):
    config = preset_config("small", lr=3e-3)
    assert all(0 < rates_at(config, 0, step, steps).lr <= 3e-3 for step in range(steps))


def test_steps_are_the_papers():
    config = preset_config("paper-cub200")
    assert [rates_at(config, outer, 0, 1).lr for outer in (0, 29, 30, 39)] == pytest.approx([3e-4, 3e-4, 3e-5, 3e-5])
    assert rates_at(config, 0, 0, 1).beta1 is None


def test_constant():
    config = preset_config("tiny", schedule="constant", lr=0.5)
    assert {rates_at(config, outer, outer, 9).lr for outer in range(9)} == {0.5}
