"""Pictures a second: from files to codes, beside its parts alone and beside the obvious way, with the same threads.

Hashing a folder should cost what the model costs. Rounds are interleaved (files, model, decoding, writing, the obvious
way, files, …), so that a machine that slows down or is busy with something else does so for all, and medians of the
rounds are given. On a CPU no pixels are copied: each picture is decoded into its row of the batch. Where the model runs
on a GPU, copying them there is measured as well.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from queryopt.bench.machine import describe_machine, load_average
from queryopt.bench.speed.copying import Copying, runtime_of
from queryopt.card import ModelCard
from queryopt.cores import usable_cores
from queryopt.errors import ImageError, InputError, MissingError, UsageError
from queryopt.images import load_image
from queryopt.runtime.backends import Backend
from queryopt.runtime.cuda import CudaRuntime
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index import HashIndex
from queryopt.text import install_extra

if TYPE_CHECKING:
    from queryopt.bench.speed.data_loader import DataLoaderPeer

__all__ = ["Round", "Throughput", "make_pictures", "measure"]

PICTURE_SIZES = ((500, 400), (500, 375), (400, 500), (480, 360))
"""Width and height of the pictures of `make_pictures`, in turn: about those of the usual data sets."""


@dataclass(frozen=True)
class Round:
    """One round, in pictures a second: files to codes, the model on pixels in memory, files to pixels, codes into an
    index file; and, None where it was not measured, the obvious way from files to codes, and pixels copied to the GPU.
    """

    end_to_end: float
    model: float
    decode: float
    write: float
    obvious: float | None = None
    copy: float | None = None

    @property
    def ratio(self) -> float:
        """Files to codes, as a share of the model alone."""
        return self.end_to_end / self.model

    @property
    def gain(self) -> float | None:
        """Files to codes, times as fast as the obvious way."""
        return None if self.obvious is None else self.end_to_end / self.obvious


@dataclass(frozen=True)
class Throughput:
    """What was measured. Rates are medians of the rounds, in pictures a second.

    ratio: median of the rounds' end_to_end / model; gain: of end_to_end / obvious, both None where it was left out.
    copy_alone: None where no pixels are copied to a GPU. pictures: how many were hashed in a round. megabytes: the size
    of their files, on average. load: the machine's load average (1 minute) before the first and after the last round;
    much above `threads` at the end or above 0.5 at the start, something else was running.
    """

    model: str
    backend: str
    backbone: str
    precision: str
    bits: int
    image_size: int
    pictures: int
    megabytes: float
    threads: int
    batch: int
    end_to_end: float
    model_alone: float
    decode_alone: float
    write_alone: float
    copy_alone: float | None
    obvious: float | None
    ratio: float
    gain: float | None
    rounds: tuple[Round, ...]
    load: tuple[float, float] | None
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable, with each round's ratio."""
        rounds = [asdict(r) | {"ratio": r.ratio, "gain": r.gain} for r in self.rounds]
        return asdict(self) | {"rounds": rounds, "load": list(self.load) if self.load else None}


def measure(
    model: str | os.PathLike[str],
    paths: Sequence[str | bytes | os.PathLike[Any]],
    *,
    threads: int | None = None,
    batch: int = 32,
    rounds: int = 5,
    backend: str | Backend = "auto",
    cuda: CudaRuntime | None = None,
    obvious: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Throughput:
    """Measure a model on picture files.

    threads: of the model, and as many for decoding (None: all that this process may use). backend: what runs the model,
    by name; or one that is open, which is closed here. cuda: the device that an open one runs on, so that copying to it
    is measured, too. Pixels of all pictures are held in memory. Pictures that can't be read are left out; InputError
    where none can. obvious: measure also PyTorch's DataLoader with the network in eager mode (see
    queryopt.bench.speed.data_loader; MissingError without PyTorch). progress: called with 1 after each round. Raises
    ModelError, MissingError, UsageError as Hasher.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}: at least 1")
    threads = threads or usable_cores()
    with (
        Hasher(model, backend, threads, batch) as hasher,
        ThreadPoolExecutor(threads) as pool,
        contextlib.ExitStack() as stack,
    ):
        card = hasher.card

        def decode(path: str | bytes | os.PathLike[Any]) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
            try:
                return load_image(path, card.preprocessing)
            except ImageError:
                return None

        decoded = list(pool.map(decode, paths))
        usable = [path for path, pixels in zip(paths, decoded, strict=True) if pixels is not None]
        if not usable:
            raise InputError(f"no picture of {len(paths)} can be read")
        pixels = np.stack([p for p in decoded if p is not None])
        del decoded
        for _ in range(2):  # a session's first two runs are slower than all others
            hasher.hash_pixels(pixels[:batch])

        def files_to_codes() -> None:
            deque(hasher.stream(usable), maxlen=0)

        def files_to_pixels() -> None:
            deque(pool.map(decode, usable), maxlen=0)

        hashed = hasher.hash_pixels(pixels)

        def codes_to_index() -> float:
            with tempfile.TemporaryDirectory(prefix="queryopt-throughput-") as folder:
                names = [Path(folder) / f"{number}" for number in range(len(usable))]
                for name in names:
                    name.touch()  # an index holds images that are there
                with HashIndex.create(Path(folder) / "index.db", card, folder) as index:
                    seconds = _seconds(lambda: index.add(names, hashed.codes, hashed.logits))
            return seconds

        device = runtime_of(hasher.choice.name) if cuda is None else cuda
        copying = None if device is None else Copying(device, batch, card.preprocessing.image_size)
        if copying is not None:
            stack.callback(copying.close)
        peer = _obvious(usable, card, threads, batch) if obvious else None
        if peer is not None:
            stack.callback(peer.close)
            peer.run()  # starts the workers, which stay
        before = load_average()
        done: list[Round] = []
        for _ in range(rounds):
            seconds = [_seconds(f) for f in (files_to_codes, lambda: hasher.hash_pixels(pixels), files_to_pixels)]
            files, model_alone, decoding, writing = (len(usable) / s for s in (*seconds, codes_to_index()))
            obvious_rate = None if peer is None else len(usable) / _seconds(peer.run)
            copy_rate = None if copying is None else len(usable) / _seconds(partial(copying.run, len(usable)))
            done.append(Round(files, model_alone, decoding, writing, obvious_rate, copy_rate))
            if progress is not None:
                progress(1)
        after = load_average()
        return Throughput(
            model=str(hasher.model_path),
            backend=hasher.backend,
            backbone=card.backbone,
            precision=card.precision,
            bits=card.bits,
            image_size=card.preprocessing.image_size,
            pictures=len(usable),
            megabytes=sum(os.stat(path).st_size for path in usable) / len(usable) / 1e6,
            threads=threads,
            batch=batch,
            end_to_end=statistics.median(r.end_to_end for r in done),
            model_alone=statistics.median(r.model for r in done),
            decode_alone=statistics.median(r.decode for r in done),
            write_alone=statistics.median(r.write for r in done),
            copy_alone=None if copying is None else statistics.median(r.copy for r in done if r.copy),
            obvious=None if peer is None else statistics.median(r.obvious for r in done if r.obvious),
            ratio=statistics.median(r.ratio for r in done),
            gain=None if peer is None else statistics.median(r.gain for r in done if r.gain),
            rounds=tuple(done),
            load=None if before is None or after is None else (before, after),
            machine=describe_machine(),
        )


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


def _obvious(paths: Sequence[Any], card: ModelCard, threads: int, batch: int) -> "DataLoaderPeer":
    try:
        from queryopt.bench.speed.data_loader import DataLoaderPeer
    except ImportError as error:
        raise MissingError(
            f"the DataLoader needs the packages of training ({error}): {install_extra('train')}; or --peers none"
        ) from None
    return DataLoaderPeer(paths, card, threads, batch)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
