"""The parity gate: does the exported model give the same codes as the network that was trained?

Both see exactly the same uint8 pixels of real pictures. What is counted is flipped bits, with the exact upper
confidence bound that so many bits allow; logit differences and the overlap of search results say how near the rest is.
"""

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt import images
from queryopt.card import Preprocessing
from queryopt.cli import Progress, display_path, no_progress
from queryopt.codes import codes_to_uint64, pack_codes, unpack_codes
from queryopt.errors import DataError, ImageError, MismatchError, ParityError, UsageError
from queryopt.text import counted

if TYPE_CHECKING:
    from PIL.Image import Image

    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.hash_network import HashNetwork

__all__ = [
    "MAX_FLIP_RATE",
    "MIN_BITS",
    "NEAR_ZERO",
    "ParityReport",
    "check_parity",
    "flip_rate_upper_bound",
    "network_logits",
    "parity_views",
    "top_k_overlap",
]

MAX_FLIP_RATE = 1e-3
"""Share of flipped bits that an fp32 model may have."""
MIN_BITS = 20_000
"""Bits compared at least. With none flipped, the rate is then below 1.5e-4 with 95 % confidence."""
NEAR_ZERO = 1e-4
"""A logit nearer to zero than this may change its sign by rounding alone."""
_OVERLAP_QUERIES = 1_000


@dataclass(frozen=True)
class ParityReport:
    """How the exported model's codes compare with the network's.

    bits_compared: views x bits. flipped: bits that differ. flipped_sure: of those, the ones with |logit| >=
    near_zero_epsilon in the network, which rounding in float32 doesn't explain. flip_rate: flipped / bits_compared.
    flip_rate_upper_95: the exact one-sided Clopper-Pearson bound; views of one picture are counted as independent.
    near_zero: share of the network's logits with |logit| < near_zero_epsilon. max_logit_difference: the largest
    |logit - logit|. top10_overlap: mean share of each view's ten nearest others, in (distance, id) order, that both
    sides name. distinct_codes: of the network, over all views; where it is 1, agreement says little. pictures, views:
    distinct pictures, and views of them (test crop, then flips and crops) that were compared. backend: what ran the
    model. failures: pictures that could not be read, with the reason.
    """

    bits_compared: int
    flipped: int
    flipped_sure: int
    flip_rate: float
    flip_rate_upper_95: float
    near_zero: float
    near_zero_epsilon: float
    max_logit_difference: float
    top10_overlap: float
    distinct_codes: int
    pictures: int
    views: int
    backend: str
    failures: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the model card, with the number of failures only: a card holds no paths."""
        values = asdict(self)
        values["failures"] = len(self.failures)
        return values

    def require(self, max_flip_rate: float) -> None:
        """Raise ParityError where the flip rate is above the limit or a logit is not finite."""
        if not math.isfinite(self.max_logit_difference):
            raise ParityError(
                f"the exported model gives logits that are not finite on {self.backend} "
                f"({counted(self.views, 'view', 'views')} of {counted(self.pictures, 'picture', 'pictures')})"
            )
        if self.flip_rate > max_flip_rate:
            raise ParityError(
                f"{self.flipped:,} of {self.bits_compared:,} bits differ between the network and the exported model on "
                f"{self.backend}: {self.flip_rate:.2e} is above the limit {max_flip_rate:.2e} (95 % upper bound "
                f"{self.flip_rate_upper_95:.2e}, largest logit difference {self.max_logit_difference:.2e}, "
                f"{100 * self.near_zero:.2f} % of logits within {self.near_zero_epsilon:g} of zero; "
                f"{self.flipped_sure:,} of the flipped bits are not). "
                "A network trained to surer codes flips less; --max-flip-rate moves the limit"
            )


def check_parity(
    network: "HashNetwork | Checkpoint | str | os.PathLike[str]",
    model_path: str | os.PathLike[str],
    pictures: Sequence[str | bytes | os.PathLike[Any]],
    *,
    backend: str = "onnxruntime",
    min_bits: int = MIN_BITS,
    batch: int = 32,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a network's codes with those of the model exported from it.

    network: a HashNetwork (run in eval mode; its mode is put back), a loaded Checkpoint, or its run folder or
    file. model_path: the model.onnx.
    pictures: paths. Where they give fewer than `min_bits` bits, further views of the same pictures (flips and crops,
    the same in every run) fill up; where they give more, an even spread of them is taken. backend, threads: what runs
    the model, see open_backend.

    Raises DataError where no picture can be read, MismatchError where model and network have other code lengths.
    The report judges nothing: see ParityReport.require.
    """
    from queryopt.runtime.backends import open_backend
    from queryopt.train.checkpoint import Checkpoint, load_checkpoint

    if min_bits < 1 or batch < 1:
        raise UsageError(f"min_bits is {min_bits} and batch {batch}: both must be at least 1")
    if isinstance(network, str | os.PathLike):
        network = load_checkpoint(network)
    module: HashNetwork = network.network() if isinstance(network, Checkpoint) else network
    bits = module.config.bits
    failures: dict[str, str] = {}
    seen: set[int] = set()
    reference_rows: list[npt.NDArray[np.float32]] = []
    code_rows: list[npt.NDArray[np.uint8]] = []
    difference = 0.0
    wanted = math.ceil(min_bits / bits)
    with contextlib.closing(open_backend(model_path, backend, threads)) as model:
        card = model.card
        if card.bits != bits:
            raise MismatchError(f"{display_path(model_path)}: its codes have {card.bits} bits, the network's {bits}")
        views = parity_views(pictures, card.preprocessing, wanted, failures)
        with (progress or no_progress)("parity", wanted, "views") as advance, _evaluating(module):
            for members, pixels in _batches(views, batch):
                expected = network_logits(module, pixels, card.preprocessing)
                output = model.run(pixels)
                seen.update(members)
                reference_rows.append(expected)
                code_rows.append(output.codes)
                difference = float(np.maximum(difference, np.abs(output.logits - expected).max()))  # keeps a NaN
                advance(len(members))
    if not reference_rows:
        reason = f" (the first: {': '.join(next(iter(failures.items())))})" if failures else ""
        raise DataError(
            f"no picture of {len(pictures):,} for the parity check could be read{reason}: "
            "pass others with --images FOLDER"
        )
    logits = np.concatenate(reference_rows)
    codes = np.concatenate(code_rows)
    reference = pack_codes(logits >= 0)
    differs = unpack_codes(reference, bits) != unpack_codes(codes, bits)
    flipped = int(np.count_nonzero(differs))
    return ParityReport(
        bits_compared=logits.size,
        flipped=flipped,
        flipped_sure=int(np.count_nonzero(differs & (np.abs(logits) >= NEAR_ZERO))),
        flip_rate=flipped / logits.size,
        flip_rate_upper_95=flip_rate_upper_bound(flipped, logits.size),
        near_zero=float(np.mean(np.abs(logits) < NEAR_ZERO)),
        near_zero_epsilon=NEAR_ZERO,
        max_logit_difference=difference,
        top10_overlap=top_k_overlap(reference, codes, bits),
        distinct_codes=len(np.unique(reference, axis=0)),
        pictures=len(seen),
        views=len(logits),
        backend=model.name,
        failures=failures,
    )


def flip_rate_upper_bound(flipped: int, compared: int, confidence: float = 0.95) -> float:
    """The exact (Clopper-Pearson, one-sided) upper bound of a rate of which `flipped` of `compared` were seen.

    It is the p at which seeing so few has a probability of 1 - confidence: sum over i <= flipped of
    C(n, i) p^i (1 - p)^(n - i), solved by bisection. 1.0 where nothing was compared or everything flipped.
    """
    if not 0 <= flipped <= compared or not 0 < confidence < 1:
        raise UsageError(f"{flipped} of {compared} flipped at confidence {confidence}: not a rate")
    if flipped == compared:
        return 1.0
    i = np.arange(flipped + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(compared - i[:-1]) - np.log(i[1:]))])
    low, high, target = flipped / compared, 1.0, math.log1p(-confidence)
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        terms = log_choose + i * math.log(middle) + (compared - i) * math.log1p(-middle)
        top = float(terms.max())
        if top + math.log(float(np.exp(terms - top).sum())) > target:
            low = middle
        else:
            high = middle
    return high


def top_k_overlap(
    reference: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.uint8],
    bits: int,
    k: int = 10,
    queries: int = _OVERLAP_QUERIES,
) -> float:
    """Mean share of each row's k nearest other rows, in (distance, id) order, that two sets of codes have in common.

    reference, codes: packed uint8 [n, ceil(bits / 8)], row i of both from the same picture. Each side searches its own
    codes with its own queries; at most `queries` rows, evenly spread, are queries. 1.0 where there are no others.
    """
    sides = [codes_to_uint64(side, bits) for side in (reference, codes)]
    n = len(sides[0])
    k = min(k, n - 1)
    if k < 1:
        return 1.0
    rows = _spread(n, queries)
    shared = 0
    for start in range(0, len(rows), 64):  # a chunk's keys stay in the cache's reach: [64, n] int64
        chunk = rows[start : start + 64]
        near = [_nearest(side, chunk, k) for side in sides]
        shared += int((near[0][:, :, None] == near[1][:, None, :]).sum())
    return shared / (len(rows) * k)


def parity_views(
    pictures: Sequence[str | bytes | os.PathLike[Any]],
    preprocessing: Preprocessing,
    count: int,
    failures: dict[str, str],
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield `count` views as (index into pictures, pixels uint8 [s, s, 3]); fewer only where no picture can be read.

    Every picture gives its test crop first. Where that is not enough, each gives as many further views as the others:
    flips, and crops of the picture; always the same ones. An unreadable picture goes into `failures`.
    """
    usable = [int(i) for i in _spread(len(pictures), count)]
    made = dict.fromkeys(usable, 0)
    missing = count
    while missing and usable:
        readable = []
        for position, index in enumerate(usable):
            share = math.ceil(missing / (len(usable) - position))
            if not share:
                break
            try:
                picture = images.open_rgb(pictures[index])
            except ImageError as error:
                failures[display_path(pictures[index])] = str(error)
                continue
            readable.append(index)
            for view in range(made[index], made[index] + share):
                yield index, _view(picture, index, view, preprocessing)
            made[index] += share
            missing -= share
        usable = readable


def _view(picture: "Image", index: int, view: int, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """View 0 is the test crop, 1 its mirror image; then crops of half a side or more, every other one mirrored."""
    if view >= 2:
        share_x, share_y, at_x, at_y = np.random.default_rng((index, view)).random(4)
        width, height = (
            max(1, round(side * (0.5 + share / 2)))
            for side, share in zip(picture.size, (share_x, share_y), strict=True)
        )
        left, top = round((picture.width - width) * at_x), round((picture.height - height) * at_y)
        picture = picture.crop((left, top, left + width, top + height))
    pixels = images.resize_crop(picture, preprocessing)
    return np.ascontiguousarray(pixels[:, ::-1]) if view % 2 else pixels


def _batches(
    views: Iterator[tuple[int, npt.NDArray[np.uint8]]], size: int
) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
    members: list[int] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    for index, view in views:
        members.append(index)
        pixels.append(view)
        if len(members) == size:
            yield members, np.stack(pixels)
            members, pixels = [], []
    if members:
        yield members, np.stack(pixels)


def network_logits(
    network: "HashNetwork", pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, branches: int = 1
) -> npt.NDArray[np.float32]:
    """The network's own logits of uint8 pixels [b, s, s, 3]: float32 [b, bits * branches], in the mode that it is in.

    Normalised as in training, and not by the graph's own code: a fault of that must show.
    """
    import torch

    from queryopt.train.inputs import to_input

    device = next(network.parameters()).device
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = (
            network(to_input(pixels, preprocessing, device), branches=branches).cpu().numpy()
        )
    return logits


@contextlib.contextmanager
def _evaluating(network: "HashNetwork") -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _nearest(values: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """The k nearest other rows of each row, unordered, int64 [rows, k]."""
    n = len(values)
    distances = np.bitwise_count(values[rows, None] ^ values[None, :]).astype(np.int64)
    keys = distances * n + np.arange(n)  # unique, and ordered as (distance, id)
    keys[np.arange(len(rows)), rows] = np.iinfo(np.int64).max
    return np.argpartition(keys, k - 1, axis=1)[:, :k]


def _spread(n: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the rows 0..n-1, evenly spread, ascending."""
    if n <= count:
        return np.arange(n)
    return np.arange(count) * n // count
