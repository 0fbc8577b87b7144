"""Pictures a second: from files to codes, beside its parts alone and beside the obvious way, with the same threads.

Hashing a folder should cost what the model costs. On a CPU no pixels are copied: each picture is decoded into its row
of the batch. Where the model runs on a GPU, copying them there is measured as well.
"""

import contextlib
import os
import statistics
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.machine import Head, Report, load_average, take_head
from queryopt.bench.speed.harness import Contender, Schedule, Timing, run_rounds
from queryopt.bench.tables import figures_table
from queryopt.card import Preprocessing
from queryopt.cores import usable_cores
from queryopt.errors import ImageError, InputError, MissingError
from queryopt.images import load_image
from queryopt.progress import Advance, no_advance
from queryopt.runtime.backends import Backend
from queryopt.runtime.cuda import CudaRuntime, open_runtime
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index import HashIndex
from queryopt.text import counted, install_extra

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["WAYS", "Settings", "make_pictures", "make_report", "measure"]

PICTURE_SIZES = ((500, 400), (500, 375), (400, 500), (480, 360))
"""Width and height of the pictures of `make_pictures`, in turn: about those of the usual data sets."""

WAYS = {
    "end_to_end": "files to codes",
    "model": "model alone",
    "decode": "decoding alone",
    "write": "writing codes alone",
    "copy": "copying to the GPU alone",
    "obvious": "DataLoader + eager",
}
"""model: on pixels in memory. write: codes into an index file. obvious: PyTorch's DataLoader, and the network in eager
mode."""
_SHARES = {"ratio": "model", "gain": "obvious"}
"""Files to codes as a share of the model alone, and times as fast as the obvious way."""

_Path = str | bytes | os.PathLike[Any]
_Rates = dict[str, float]
"""By WAYS and _SHARES, without what was not measured."""
_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Settings:
    """How it is measured.

    backend: what runs the model, by name; or one that is open, which is closed after the measurement.
    threads: of the model, and as many for decoding (None: all that this process may use).
    obvious: whether to measure PyTorch's DataLoader with the network in eager mode, too.
    """

    backend: str | Backend = "auto"
    threads: int | None = None
    batch: int = 32
    rounds: int = 5
    obvious: bool = False


def measure(
    model: str | os.PathLike[str],
    paths: Sequence[_Path],
    settings: Settings,
    *,
    cuda: CudaRuntime | None = None,
    progress: Advance = no_advance,
) -> Report:
    """Measure a model on picture files, whose pixels are all held in memory. Those that can't be read are left out.

    cuda: the device that an open backend runs on, so that copying to it is measured, too.
    progress: called with 1 after each round.
    Raises: InputError where no picture can be read; MissingError without PyTorch for the obvious way; ModelError,
    MissingError, UsageError as Hasher.
    """
    schedule = Schedule(settings.rounds)
    threads, batch = settings.threads or usable_cores(), settings.batch
    with (
        Hasher(model, settings.backend, threads, batch) as hasher,
        ThreadPoolExecutor(threads) as pool,
        contextlib.ExitStack() as stack,
    ):
        decode = partial(_decode, preprocessing=hasher.card.preprocessing)
        decoded = list(pool.map(decode, paths))
        usable = [path for path, pixels in zip(paths, decoded, strict=True) if pixels is not None]
        if not usable:
            raise InputError(f"no picture of {len(paths)} can be read")
        pixels = np.stack([one for one in decoded if one is not None])
        del decoded
        for _ in range(2):  # a session's first two runs are slower than all others
            hasher.hash_pixels(pixels[:batch])
        contenders = [
            Contender("end_to_end", lambda paths: deque(hasher.stream(paths), maxlen=0), [usable]),
            Contender("model", hasher.hash_pixels, [pixels]),
            Contender("decode", lambda paths: deque(pool.map(decode, paths), maxlen=0), [usable]),
            _writing(hasher, pixels, stack),
        ]
        device = _device_of(hasher.choice.name) if cuda is None else cuda
        if device is not None:
            copying = stack.enter_context(contextlib.closing(_Copying(device, pixels[:batch])))
            contenders.append(Contender("copy", copying.run, [len(usable)]))
        if settings.obvious:
            contenders.append(_obvious(usable, hasher, threads, batch, stack))
        before = load_average()
        timings = run_rounds(contenders, schedule, beside=lambda: progress(1))
        head, card = take_head(before), hasher.card
        facts = {
            "model": str(hasher.model_path),
            "backend": hasher.backend,
            "backbone": card.backbone,
            "precision": card.precision,
            "bits": card.bits,
            "image_size": card.preprocessing.image_size,
            "pictures": len(usable),  # in a round
            "megabytes": sum(os.stat(path).st_size for path in usable) / len(usable) / 1e6,  # of a file, on average
            "threads": threads,
            "batch": batch,
        }
    return make_report(head, facts, {one.name: timing for one, timing in zip(contenders, timings, strict=True)})


def make_report(head: Head, facts: dict[str, Any], timings: dict[str, Timing]) -> Report:
    """Facts and rates. timings: of a round's pictures, by WAYS; without those that were left out."""
    rounds = _rates(timings, facts["pictures"])
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    values = facts | {f"{way}_alone": medians.get(way) for way in ("model", "decode", "write", "copy")}
    values |= {name: medians.get(name) for name in ("end_to_end", "obvious", *_SHARES)}
    values["rounds"] = [{name: one.get(name) for name in (*WAYS, *_SHARES)} for one in rounds]
    return Report(head, values, _parts(head, values, rounds, medians))


def _rates(timings: dict[str, Timing], pictures: int) -> list[_Rates]:
    """Of each round: pictures a second by WAYS, and files to codes by _SHARES."""
    rounds = []
    for one in zip(*(timing.rounds for timing in timings.values()), strict=True):
        rates = {way: pictures / taken.wall for way, taken in zip(timings, one, strict=True)}
        shares = {name: rates["end_to_end"] / rates[way] for name, way in _SHARES.items() if way in rates}
        rounds.append(rates | shares)
    return rounds


def _parts(head: Head, values: dict[str, Any], rounds: list[_Rates], medians: _Rates) -> "list[RenderableType]":
    text = (
        "{backbone}, {bits} bits, {image_size} px, {precision}; {backend}\n".format_map(values)
        + f"{counted(values['pictures'], 'picture', 'pictures')} of {values['megabytes'] * 1000:.0f} kB, batches of "
        f"{values['batch']}, {counted(values['threads'], 'thread', 'threads')}, "
        f"{counted(len(rounds), 'round', 'rounds')}\n{head.text}"
    )
    table = figures_table(None, "", *(f"round {number + 1}" for number in range(len(rounds))), "median")
    titles = {way: f"{title}, images/s" for way, title in WAYS.items()}
    titles |= {name: f"files to codes / {WAYS[way]}" for name, way in _SHARES.items()}
    for name in medians:
        digits = {"ratio": 3, "gain": 2}.get(name, 1)
        table.add_row(titles[name], *(f"{one[name]:,.{digits}f}" for one in (*rounds, medians)))
    return [text, table]


def _decode(path: _Path, preprocessing: Preprocessing) -> _Pixels | None:
    try:
        return load_image(path, preprocessing)
    except ImageError:
        return None


def _writing(hasher: Hasher, pixels: _Pixels, stack: contextlib.ExitStack) -> Contender:
    """Codes of pictures into a new index, whose making is not timed."""
    hashed = hasher.hash_pixels(pixels)
    opened = stack.enter_context(contextlib.ExitStack())

    def new_index(_: object) -> tuple[HashIndex, list[Path]]:
        opened.close()  # that of the round before
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="queryopt-throughput-")))
        names = [folder / f"{number}" for number in range(len(pixels))]
        for name in names:
            name.touch()  # an index holds images that are there
        return opened.enter_context(HashIndex.create(folder / "index.db", hasher.card, folder)), names

    def write(made: tuple[HashIndex, list[Path]]) -> None:
        index, names = made
        index.add(names, hashed.codes, hashed.logits)

    return Contender("write", write, prepare=new_index)


def _obvious(
    paths: Sequence[_Path], hasher: Hasher, threads: int, batch: int, stack: contextlib.ExitStack
) -> Contender:
    try:
        from queryopt.bench.speed.data_loader import EagerLoader
    except ImportError as error:
        raise MissingError(
            f"the DataLoader needs the packages of training ({error}): {install_extra('train')}; or --peers none"
        ) from None
    loader = stack.enter_context(contextlib.closing(EagerLoader(paths, hasher.card, threads, batch)))
    loader.run()  # starts the workers, which stay
    return Contender("obvious", lambda _: loader.run())


class _Copying:
    """Batches of pixels, uint8 [b, s, s, 3], from pinned memory to a GPU, one after the other."""

    def __init__(self, runtime: CudaRuntime, pixels: _Pixels) -> None:
        self._pixels = runtime.pinned(pixels.shape, "uint8")
        self._pixels[:] = 0
        self._memory = runtime.allocate(self._pixels.nbytes)
        self._stream = runtime.stream()

    def run(self, images: int) -> None:
        """Copy so many, and wait for them."""
        batch = len(self._pixels)
        for start in range(0, images, batch):
            self._stream.upload(self._memory, self._pixels[: images - start])
        self._stream.synchronize()

    def close(self) -> None:
        self._stream.synchronize()
        self._memory.free()


def _device_of(backend: str) -> CudaRuntime | None:
    """What reaches the device that a backend of this name runs on; None on a CPU, or where no package does so here."""
    if backend not in ("cuda", "tensorrt"):
        return None
    with contextlib.suppress(MissingError):
        return open_runtime()
    return None


def make_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write `count` JPEGs of PICTURE_SIZES with the detail of photographs (about 40 kB each) and return their paths."""
    from PIL import Image

    paths = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        width, height = PICTURE_SIZES[number % len(PICTURE_SIZES)]
        # Shapes at three scales and a little sensor noise: as many coefficients for the decoder as a photograph has.
        pixels = rng.normal(0, 4, (height, width, 3))
        for cells, strength in ((5, 60), (25, 35), (100, 18)):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            smooth = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float)
            pixels += (smooth / 127.5 - 1) * strength
        path = folder / f"{number:05d}.jpg"
        Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8)).save(path, quality=88)
        paths.append(path)
    return paths
