"""The loss around the trained weights, in a plane of two random directions (Figures 4 and 12).

Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018: each direction is
scaled, filter by filter, to the length of the weights there, and is zero for biases and norms; without that, a network
whose weights are large looks flat.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.figure import new_figure
from queryopt.bench.quality.report.model import RunModel
from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study
from queryopt.cli import Output
from queryopt.train.run_files import LAST

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from queryopt.train.data import LabelledImages

__all__ = ["Landscape", "filter_normalised", "loss_landscape", "measure_landscape"]

_GRID = 17
_PICTURES = 96
_STEPS = 1 << 30
"""A step after the end of any run: a method whose relaxation hardens as it goes on has it at its hardest."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """The loss at `at` x `at` along two directions: float64 [points, points], the trained weights in the middle.

    pictures: that the loss was taken over.
    """

    at: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    pictures: int

    @property
    def centre(self) -> float:
        return float(self.loss[len(self.at) // 2, len(self.at) // 2])


def loss_landscape(study: Study) -> Section:
    """The landscape of the run, and of the one to compare with, on one scale."""
    if not study.landscape:
        raise LeftOutError("takes minutes: ask for it with --landscape")
    if study.run is None:
        raise LeftOutError("an exported model alone: the loss needs the run's own weights and codes")
    images, seed = study.gallery_images, study.seed
    landscapes = {title: measure_landscape(run, images, seed, study.out, _GRID) for title, run in study.runs.items()}
    top = max(float(np.quantile(one.loss[np.isfinite(one.loss)], 0.98)) for one in landscapes.values())
    figure = new_figure(5.6 * 2, 4.4 * len(landscapes))
    for row, (title, one) in enumerate(landscapes.items()):
        _draw(figure, len(landscapes), row, title, one, top)
    centres = "; ".join(f"{title}: {one.centre:.3g}" for title, one in landscapes.items())
    low = "; ".join(f"{title}: {100 * _near(one):.0f} %" for title, one in landscapes.items())
    finding = f"The loss of the trained weights ({centres}), and how much of the plane is below twice that ({low})."
    first = next(iter(landscapes.values()))
    values = {
        "figure": study.figures.embed("landscape", figure),
        "pictures": first.pictures,
        "points": len(first.at),
    }
    return Section("landscape", "Loss landscape (Figure 4)", finding, values)


def measure_landscape(run: RunModel, images: "LabelledImages", seed: int, out: Output, points: int) -> Landscape:
    """The training loss around a run's weights; LeftOutError where the run folder has no last.pt.

    images: the pictures that it trains on. seed: of the directions.
    """
    import torch

    from queryopt.train.inputs import to_input
    from queryopt.train.methods import find_method
    from queryopt.train.methods.base import TrainingBatch
    from queryopt.train.pictures import PictureSource
    from queryopt.train.runs import read_last
    from queryopt.train.threads import torch_threads

    if not (run.folder / LAST).is_file():
        raise LeftOutError(
            f"the run folder {run.name} has no {LAST}, which holds the codes that the loss compares with"
        )
    state, config = read_last(run.folder / LAST)
    if state.data != images.digest():
        raise LeftOutError(f"the run {run.name} began with other training pictures, so its codes belong to others")
    order = np.argsort(np.arange(len(images)) % max(1, len(images) // _PICTURES), kind="stable")
    rows = np.sort(order[:_PICTURES])
    source = PictureSource(images, run.preprocessing, threads=run.threads)
    batch = source.plain(rows)
    source.close()
    rows = rows[batch.kept]
    network = run.checkpoint.network().to(run.network.head.weight.device)
    device = network.head.weight.device
    inputs = to_input(batch.pictures, run.preprocessing, device, False)
    method = find_method(config.method)(config, images.labels)
    training_batch = TrainingBatch(
        torch.from_numpy(rows),
        torch.from_numpy(images.labels[rows]),
        state.codes,
        torch.from_numpy(images.labels),
        _STEPS,
    )
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0  # by the batch's statistics, without moving the running ones
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    one, other = ({name: filter_normalised(w, generator) for name, w in weights.items()} for _ in range(2))
    at = np.linspace(-1, 1, points)
    losses = np.empty((points, points))
    with (
        torch_threads(run.threads),
        torch.inference_mode(),
        out.progress("landscape", points * points, "points") as done,
    ):
        for i, a in enumerate(at.tolist()):
            for j, b in enumerate(at.tolist()):
                for name, value in network.named_parameters():
                    value.copy_(weights[name] + a * one[name] + b * other[name])
                outputs = method.relax(network(inputs), _STEPS).cpu()
                losses[i, j] = float(method.loss(outputs, training_batch).total)
                done()
    return Landscape(at, losses, len(rows))


def filter_normalised(weight: "Tensor", generator: "Generator") -> "Tensor":
    """A random direction with the length of the weight, filter by filter (its first axis); zeros for a vector."""
    import torch

    if weight.dim() < 2:
        return torch.zeros_like(weight)
    direction = torch.randn(weight.shape, generator=generator).to(weight.device)
    lengths, own = (value.flatten(1).norm(dim=1) for value in (direction, weight))
    scale = own / lengths.clamp_min(1e-12)
    scaled: Tensor = direction * scale.view(-1, *[1] * (weight.dim() - 1))
    return scaled


def _near(one: Landscape) -> float:
    return float((one.loss <= 2 * one.centre).mean())


def _draw(figure: Any, rows: int, row: int, title: str, one: Landscape, top: float) -> None:
    shown = np.clip(np.nan_to_num(one.loss, nan=top), None, top)
    surface = figure.add_subplot(rows, 2, 2 * row + 1, projection="3d")
    x, y = np.meshgrid(one.at, one.at, indexing="ij")
    surface.plot_surface(x, y, shown, cmap="viridis", linewidth=0, antialiased=True, rstride=1, cstride=1)
    surface.set(zlim=(0, top), title=title, zlabel="loss")
    surface.set(facecolor=(0, 0, 0, 0))
    plane = figure.add_subplot(rows, 2, 2 * row + 2)
    contours = plane.contourf(x, y, shown, levels=16, cmap="viridis")
    plane.contour(x, y, shown, levels=16, colors="white", linewidths=0.4, alpha=0.6)
    plane.plot([0], [0], marker="+", color="white", markersize=9)
    plane.set_aspect("equal")
    plane.set(xlabel="first direction", ylabel="second direction")
    figure.colorbar(contours, ax=plane, fraction=0.045, label="loss")
