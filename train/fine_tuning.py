"""Training on from the closed form: a trunk's upper stages and the linear layer. Not the paper's.

What lies below is frozen, so its maps of every picture, as it is and in a few random views, are computed once and kept:
a step runs what lies above, alone. The layer learns, by squared error, codes of the classes that are read off the
trunk's features (visual_codes.py). Then the closed form is taken anew on the features as they are now, and of these
three, what was there before, the trained layer and the new closed form, the one is kept that retrieves the validation
pictures best.

The number of passes decides all: so a run whose number was found for a budget in minutes is repeated bit for bit by
that number.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from queryopt.codes import pack_codes
from queryopt.errors import DataError, TrainingError, UsageError
from queryopt.metrics import retrieval_metrics
from queryopt.progress import Advance, Progress, no_advance
from queryopt.text import display_path
from queryopt.train.backbones import Backbone, split_backbone
from queryopt.train.closed_form import logit_unit
from queryopt.train.distributed import Processes
from queryopt.train.draws import Stream, epoch_batches, epoch_order, sample_rng
from queryopt.train.hash_network import HashNetwork
from queryopt.train.inputs import to_input
from queryopt.train.methods.linear import LinearMethod, LinearNetwork, pooled_stages, set_layer
from queryopt.train.run_pictures import Reading, RunPictures
from queryopt.train.visual_codes import visual_codes

__all__ = ["CLOSED_FORM", "FineTuning", "Outcome", "Plan", "check_fine_tuning"]

_Rows = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]

MAPS_BYTES = 1 << 30
"""Memory that the kept maps may take: where they need more, fewer pictures train."""
CLOSED_FORM = "closed form"
"""What is kept where training did not help."""
_MOST_PASSES = 16
"""More than these taught nothing more, however much time there was."""
_VIEWS = 3
"""Random views of a picture that are kept, at most, beside the picture as it is."""
_PASSES_A_VIEW = 3
_BATCH = 32
_READ = 64
_RATE = 5e-4
_DECAY = 1e-2
_RISE = 0.1
"""Share of the steps in which the learning rate rises, before it falls to 0 along a cosine."""
_RIDGE = 0.1
"""Of the first layer, relative to the mean square of its input."""
_LEAST = 1e-3
_TIMED = 3
"""Steps that a forecast is made from."""


@dataclass(frozen=True)
class Plan:
    """passes: over the pictures. views: random ones kept of each. seconds: how long all will take, as forecast; None
    where nobody asked.
    """

    passes: int
    views: int
    seconds: float | None = None

    @classmethod
    def of(cls, passes: int, seconds: float | None = None) -> "Plan":
        return cls(passes, min(_VIEWS, passes // _PASSES_A_VIEW), seconds)


@dataclass(frozen=True)
class Outcome:
    """What came of it. kept: CLOSED_FORM, "trained layer" or "closed form anew". maps: validation mAP of each.
    passes: done, fewer than planned where it was stopped. fit: of the closed form that was kept, if one was.
    """

    kept: str
    maps: dict[str, float]
    passes: int
    fit: dict[str, Any] | None


class _Plain(NamedTuple):
    """What the frozen part makes of pictures as they are, float32 [k, c, h, w], and which of those asked for they are,
    int64 [k].
    """

    plain: Tensor
    rows: _Rows


class _Maps(NamedTuple):
    """The same, and of random views, float16 [k, v, c, h, w], with the classes, int64 [k]. rows: of the data set."""

    plain: Tensor
    views: Tensor
    rows: _Rows
    labels: _Rows


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Weights of the trunk's upper part and the layer's, and validation features; what a closed form chose."""

    upper: dict[str, Tensor]
    head: dict[str, Tensor]
    map: float
    fit: dict[str, Any] | None = None


def check_fine_tuning(network: HashNetwork, pictures: RunPictures, processes: Processes) -> None:
    """Whether a network can be trained on with these pictures, before anything is computed.

    DataError where they have no classes, or none were set aside that say whether it helped. UsageError for several
    processes, and for a backbone that can't be split.
    """
    if len(pictures.images.classes) < 2 or not len(pictures.validation):
        what = "labels: pictures in folders by class" if len(pictures.images.classes) < 2 else "validation pictures"
        raise DataError(
            f"{display_path(pictures.images.root)}: training on from the closed form needs {what} (without --minutes "
            "and --iterations there is the closed form alone)"
        )
    if processes.count > 1:
        raise UsageError("training on from the closed form takes one process: start it without torchrun")
    split_backbone(network.backbone, network.config.image_size, network.config.grids[0])


class FineTuning:
    """Trains `network`, which was fitted in closed form to the training pictures; `method` is what fitted it.

    fit: what it chose. pictures: of the run. stop: whether to end with what there is. report: called with a line for
    metrics.jsonl after each pass.
    """

    def __init__(
        self,
        network: LinearNetwork,
        method: LinearMethod,
        fit: dict[str, Any],
        pictures: RunPictures,
        device: torch.device,
        progress: Progress,
        stop: Callable[[], bool],
        report: Callable[[dict[str, Any]], None],
    ) -> None:
        self.network, self.method, self.fit, self.pictures = network, method, fit, pictures
        self.device, self.progress, self.stop, self.report = device, progress, stop, report
        self.seed, self.config = method.config.seed, network.config
        # Where the last stage tells classes apart no better than the one before, more of the trunk has to learn.
        deep = any(name.startswith("stage4") for name in fit["features"])
        side = self.config.grids[0] * (1 if deep else 2)
        self.lower, self.upper = split_backbone(network.backbone, self.config.image_size, side)
        self.upper.requires_grad_(True)
        self._map_size = int(np.prod(self._below(np.zeros((1, *2 * (self.config.image_size,), 3), np.uint8)).shape))

    def plan(self, seconds: float) -> Plan:
        """As many passes as fit into so many seconds, as the first few steps forecast: maybe none."""
        begun = time.monotonic()
        maps = self._maps(self._chosen(_VIEWS)[: _BATCH * _TIMED], 1)
        a_view = (time.monotonic() - begun) / (2 * len(maps.rows))
        trainer = _Trainer(self, maps, Plan(_TIMED + 1, 0))
        batch = np.arange(min(_BATCH, len(maps.rows)))
        trainer.step(0, batch, batch * 0)  # the first is slower than others
        begun = time.monotonic()
        for step in range(1, _TIMED + 1):
            trainer.step(step, batch, batch * 0)
        a_step = (time.monotonic() - begun) / (_TIMED * len(batch))
        plan = Plan(0, 0, 0.0)
        for passes in range(2, _MOST_PASSES + 1):
            views = Plan.of(passes).views
            pictures = len(self._chosen(views))
            # At the end all pictures go through the whole network once more, and twice through its upper part.
            needed = pictures * ((views + 1) * a_view + (passes + 1) * a_step) + len(self.pictures.images) * a_view
            if needed <= seconds:
                plan = Plan.of(passes, needed)
        return plan

    def run(self, plan: Plan) -> Outcome:
        """Train, and leave in the network what is best."""
        maps = self._maps(self._chosen(plan.views), plan.views)
        validation = self._below_all(self.pictures.read_validation())
        asked = self.pictures.validation.labels[validation.rows]

        def candidate(upper: Backbone, head: nn.Linear, fit: dict[str, Any] | None = None) -> _Candidate:
            gallery, queries = (pack_codes(_logits(upper, head, each) >= 0) for each in (maps.plain, validation.plain))
            measured = retrieval_metrics(queries, gallery, self.config.bits, asked, maps.labels, ks=(), radii=())
            weights, layer = ({k: v.clone() for k, v in part.state_dict().items()} for part in (upper, head))
            return _Candidate(weights, layer, measured.map, fit)

        candidates = {CLOSED_FORM: candidate(self.upper, self.network.head, self.fit)}
        trainer = _Trainer(self, maps, plan)
        if done := trainer.train():
            candidates["trained layer"] = candidate(trainer.upper, trainer.layer())
            fit = self.method.fit(self.network, _features(trainer.upper, maps.plain), maps.labels)
            candidates["closed form anew"] = candidate(trainer.upper, self.network.head, fit)
        # Of equals the first: nothing is changed that does not help.
        kept = max(candidates, key=lambda name: candidates[name].map)
        best = candidates[kept]
        self.network.backbone.load_state_dict(best.upper, strict=False)
        self.network.head.load_state_dict(best.head)
        return Outcome(kept, {name: round(each.map, 4) for name, each in candidates.items()}, done, best.fit)

    def _chosen(self, views: int) -> _Rows:
        """Rows of the pictures that train, in order: all, or as many as memory has room for with so many views."""
        count, room = len(self.pictures.images), MAPS_BYTES // (self._map_size * (4 + 2 * views))
        if count <= room:
            return np.arange(count)
        return np.sort(sample_rng(self.seed, 0, 0, 0, Stream.SAMPLES).choice(count, max(room, 1), replace=False))

    def _maps(self, rows: _Rows, views: int) -> _Maps:
        with self.progress("views", len(rows) * (views + 1), "images") as advance:
            plain = self._below_all(self.pictures.read(rows), advance)
            rows = rows[plain.rows]
            batches = [rows[start : start + _READ] for start in range(0, len(rows), _READ)]
            kept = torch.empty((len(rows), views, *plain.plain.shape[1:]), dtype=torch.half)
            for view in range(views):
                # As outer iteration `view` would draw it, of a method that trains on other views in each.
                read = self.pictures.views(batches, view, 0)
                for start, batch in zip(range(0, len(rows), _READ), read, strict=True):
                    self._stop_early()
                    kept[start : start + _READ, view] = self._below(batch.pictures).half()
                    advance(len(batch.pictures))
        return _Maps(plain.plain, kept, rows, self.pictures.images.labels[rows])

    def _below_all(self, reading: Reading, advance: Advance = no_advance) -> _Plain:
        made = []
        for pictures in reading:
            self._stop_early()
            made.append(self._below(pictures))
            advance(len(pictures))
        plain, kept = reading.gather(torch.cat(made))
        return _Plain(plain, np.flatnonzero(kept))

    def _below(self, pictures: npt.NDArray[np.uint8]) -> Tensor:
        """What the frozen part makes of pictures, uint8 [b, s, s, 3]: float32 [b, c, h, w], on the CPU."""
        with torch.inference_mode():
            maps: Tensor = self.lower(to_input(pictures, self.config.preprocessing, self.device))
        return maps.float().cpu().clone()

    def _stop_early(self) -> None:
        if self.stop():
            raise KeyboardInterrupt


class _Trainer:
    """A copy of the upper part, and a layer on its standardised features that starts by ridge regression."""

    def __init__(self, tuning: FineTuning, maps: _Maps, plan: Plan) -> None:
        self.tuning, self.maps, self.plan = tuning, maps, plan
        self.upper = copy.deepcopy(tuning.upper).eval()  # BatchNorm keeps the statistics of what it was trained on
        features = _features(self.upper, maps.plain)
        self.mean, self.spread = features.mean(axis=0), np.maximum(features.std(axis=0), _LEAST)
        codes = self._class_codes(features)[maps.labels].astype(np.float64)  # [k, bits]
        weight, bias = _ridge((features - self.mean) / self.spread, codes)
        self.head = nn.Linear(*weight.shape)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weight.T))
            self.head.bias.copy_(torch.from_numpy(bias))
        device = tuning.device
        self.head.to(device)
        self.codes = torch.from_numpy(codes).float().to(device)
        self._standard = tuple(torch.from_numpy(each).to(device) for each in (self.mean, self.spread))
        self.parameters = [*self.upper.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, _RATE, weight_decay=_DECAY)
        self.batches = epoch_batches(len(maps.rows), _BATCH)

    def _class_codes(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
        tuning, groups = self.tuning, self.tuning.network.groups()
        chosen = np.concatenate([features[:, groups[name]] for name in tuning.fit["features"]], axis=1)
        classes = len(tuning.pictures.images.classes)
        return visual_codes(chosen, self.maps.labels, classes, tuning.config.bits, tuning.seed)

    def train(self) -> int:
        """All passes, or until it is to stop: how many were done."""
        passes, count = self.plan.passes, len(self.maps.rows)
        with self.tuning.progress("fine-tuning", passes * count, "images") as advance:
            for done in range(passes):
                order = epoch_order(self.tuning.seed, 0, done, count)
                drawn = sample_rng(self.tuning.seed, 0, done, 0, Stream.KEPT_VIEWS)
                views = drawn.integers(0, self.plan.views + 1, count)
                total, begun = 0.0, time.monotonic()
                for number, batch in enumerate(self.batches):
                    if self.tuning.stop():
                        return done
                    rows = order[batch.start : batch.stop]
                    total += self.step(done * len(self.batches) + number, rows, views[rows]) * len(rows)
                    advance(len(rows), f"pass {done + 1}/{passes}")
                self.tuning.report(
                    {
                        "outer": done,
                        "inner": 0,
                        "loss": total / count,
                        "lr": self.optimizer.param_groups[0]["lr"],
                        "images_per_second": round(count / max(time.monotonic() - begun, 1e-9), 1),
                    }
                )
        return passes

    def step(self, step: int, rows: _Rows, views: npt.NDArray[np.int64]) -> float:
        """Train on a batch: rows of the maps, and which view of each, 0 for the picture as it is. Returns the loss."""
        share = step / max(self.plan.passes * len(self.batches), 1)
        for group in self.optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, (share + _LEAST) / _RISE) * 0.5 * (1 + np.cos(np.pi * min(share, 1.0)))
        maps = self.maps.plain[rows]
        other = torch.from_numpy(np.flatnonzero(views))
        maps[other] = self.maps.views[rows[other], views[other] - 1].float()
        mean, spread = self._standard
        features = pooled_stages(self.upper(maps.to(self.tuning.device)))
        loss = F.mse_loss(self.head((features - mean) / spread), self.codes[rows])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        value = float(loss.detach())
        if not np.isfinite(value):
            raise TrainingError("the loss of the fine-tuning is not a finite number: the closed form is kept")
        return value

    def layer(self) -> nn.Linear:
        """The layer as the network has it: on features as they are, with logits of which nearly all are within 1."""
        weight = self.head.weight.detach().cpu().numpy().astype(np.float64) / self.spread
        bias = self.head.bias.detach().cpu().numpy().astype(np.float64) - weight @ self.mean
        unit = logit_unit(_features(self.upper, self.maps.plain) @ weight.T + bias)
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        set_layer(layer, weight / unit, bias / unit)
        return layer.to(self.tuning.device)


def _features(upper: Backbone, plain: Tensor) -> npt.NDArray[np.float32]:
    """What the layer takes of kept maps, [k, d]."""
    device = next(upper.parameters()).device
    with torch.inference_mode():
        made = [pooled_stages(upper(each.to(device))).cpu() for each in torch.split(plain, _READ)]
    return torch.cat(made).numpy()


def _logits(upper: Backbone, head: nn.Linear, plain: Tensor) -> npt.NDArray[np.float32]:
    features = torch.from_numpy(_features(upper, plain)).to(head.weight.device)
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = head(features).cpu().numpy()
    return logits


def _ridge(values: _Floats, codes: _Floats) -> tuple[_Floats, _Floats]:
    """(weight [d, bits], bias [bits]) by ridge regression of codes [k, bits] on standardised values [k, d]."""
    bias = codes.mean(axis=0)
    count, width = values.shape
    if count < width:
        weight = values.T @ np.linalg.solve(values @ values.T + _RIDGE * width * np.eye(count), codes - bias)
    else:
        weight = np.linalg.solve(values.T @ values + _RIDGE * width * np.eye(width), values.T @ (codes - bias))
    return weight, bias
