"""One step of training: what it keeps for backward, in which precision it computes, and that its parts are told."""

import numpy as np
import pytest
import torch

from queryopt.train import preset_config
from queryopt.train.inputs import to_input
from queryopt.train.loss import hashing_loss
from queryopt.train.methods import find_method, method_names
from queryopt.train.methods.base import TrainingBatch
from queryopt.train.solver import solve_codes
from queryopt.train.step import STEP_PARTS, TrainingStep

LABELS = np.arange(24, dtype=np.int64) % 4


def config_of(preset="tiny", **changes):
    return preset_config(preset, **{"bits": 8, "threads": 1, "batch": 6, "lr": 3e-3, **changes})


def batch_of(step, count=6):
    size = step.preprocessing.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    columns = step.config.network.bits * step.config.network.branches
    codes = torch.randn(len(LABELS), columns, generator=torch.Generator().manual_seed(0)).sign()
    return pictures, torch.arange(count), codes


def step_once(step, count=6, **changes):
    step.network.train()
    return step(*batch_of(step, count), 0, 0, **changes)


def frozen_step(**changes):
    """A ResNet that is trained from its second stage on."""
    network = {"backbone": "resnet18", "image_size": 64, "dim": 32, "heads": 2, "feedforward": 32}
    return TrainingStep(config_of(**network, weights="none", freeze=True, **changes), LABELS)


def kept_for_backward(step, forward):
    """Outputs of the frozen layers, by name, that backward keeps."""
    frozen = {
        name: module
        for name, module in step.network.backbone.named_modules()
        if name.startswith(("conv1", "bn1", "relu", "maxpool", "layer1")) and not list(module.children())
    }
    outputs, kept = {}, set()

    def note(name):
        # The tensors stay alive here, so no later one lies where they lay.
        return lambda module, inputs, output: outputs.setdefault(name, []).append(output)

    def pack(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    hooks = [module.register_forward_hook(note(name)) for name, module in frozen.items()]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    for hook in hooks:
        hook.remove()
    assert len(outputs) == len(frozen)
    return {n for n, seen in outputs.items() for out in seen if out.untyped_storage().data_ptr() in kept}


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_frozen_stages_keep_nothing_for_backward_no_gradients_and_no_optimiser_state(amp):
    step = frozen_step(amp=amp, optimizer="adamw")
    # The last block's output is the first trained layer's input: it is kept for that one. (Its ReLU works in place, on
    # what the BatchNorm before gave.)
    last = {"layer1.1.relu", "layer1.1.bn2"}
    assert kept_for_backward(step, lambda: step_once(step, 2)) <= last
    frozen = [p for layer in step.network.backbone.frozen_layers() for p in layer.parameters()]
    assert frozen
    assert all(p.grad is None and p not in step.optimizer.state for p in frozen)
    others = [p for p in step.network.parameters() if p.requires_grad]
    assert all(p in step.optimizer.state for p in others)
    # The same network, were nothing frozen, keeps them: what is asked above can fail.
    for layer in step.network.backbone.frozen_layers():
        layer.requires_grad_(True)
    assert "conv1" in kept_for_backward(step, lambda: step.network(torch.zeros(2, 3, 64, 64)))


def test_the_parts_are_told_in_their_order():
    told = []
    step_once(TrainingStep(config_of(), LABELS), done=told.append)
    assert tuple(told) == STEP_PARTS


@pytest.mark.parametrize("method", [name for name in method_names() if not find_method(name).closed_form])
def test_bf16_changes_training_by_rounding_and_nothing_else(method):
    exact, rounded = (TrainingStep(config_of(method=method, amp=amp), LABELS) for amp in ("none", "bf16"))
    images = to_input(batch_of(exact)[0], exact.preprocessing)
    for step in (exact, rounded):
        step.network.eval()
    with torch.inference_mode():
        assert torch.equal(exact.network(images), rounded.network(images))
    done = [step_once(step) for step in (exact, rounded)]
    outputs = [result.outputs for result in done]
    assert {out.dtype for out in outputs} == {torch.float32}
    assert not torch.equal(*outputs)
    torch.testing.assert_close(*outputs, rtol=0.1, atol=0.1)
    assert done[1].sums[0] == pytest.approx(float(done[0].sums[0]), rel=0.05)
    for step in (exact, rounded):
        assert {p.dtype for p in step.network.parameters()} == {torch.float32}
        assert {p.grad.dtype for p in step.network.parameters() if p.grad is not None} == {torch.float32}
    gradients = [torch.cat([p.grad.flatten() for p in s.network.parameters()]) for s in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.98


def test_optimisers_take_the_rate_the_decay_and_the_papers_momentum():
    sgd, adamw = (TrainingStep(config_of(optimizer=name, weight_decay=0.02), LABELS) for name in ("sgd", "adamw"))
    weight = sgd.parameters[0]
    start = weight.detach().clone()
    for _ in range(2):  # of a gradient that stays the same: 1, then 1 and 0.9 of the first
        weight.grad = torch.ones_like(weight)
        sgd.optimizer.step()
    first = 1 + 0.02 * start
    second = 1 + 0.02 * (start - 3e-3 * first) + 0.9 * first
    torch.testing.assert_close(weight.detach(), start - 3e-3 * (first + second))
    assert [group["weight_decay"] for group in adamw.optimizer.param_groups] == [0.02]


def test_gamma_is_scaled_to_the_pictures_wherever_it_counts():
    config = config_of(scale_gamma=True, gamma=3000.0)
    gamma = config.effective_gamma(len(LABELS))
    assert gamma < 100
    method = find_method("queryopt")(config, LABELS)
    rng = torch.Generator().manual_seed(0)
    index, labels = torch.arange(len(LABELS)), torch.from_numpy(LABELS)
    columns = config.network.bits * config.network.branches
    codes = torch.randn(len(LABELS), columns, generator=rng).sign()
    outputs = torch.tanh(torch.randn(len(LABELS), columns, generator=rng))
    loss = method.loss(outputs, TrainingBatch(index, labels, codes, labels, 0))
    assert loss.quantisation == hashing_loss(outputs, codes, labels, labels, index, gamma).quantisation
    solved = method.solve(codes, outputs, index, labels, outer=10)
    assert torch.equal(solved, solve_codes(codes, outputs, index, labels, gamma))
    assert not torch.equal(solved, solve_codes(codes, outputs, index, labels, 3000.0))
