"""Pictures to codes: decoding runs ahead of the model in threads, within a bounded memory."""

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard, Preprocessing
from queryopt.codes import code_bytes
from queryopt.cores import usable_cores
from queryopt.errors import ImageError, InputError, MismatchError, UsageError
from queryopt.runtime.attention_maps import merge_attention
from queryopt.runtime.backends import Backend, BackendChoice, choose_backend, has_gpu, open_backend
from queryopt.runtime.backends.base import (
    BackendOutput,
    ExplainingBackend,
    Pending,
    PipelinedBackend,
    check_output,
    in_flight,
)
from queryopt.text import display_path

__all__ = ["MODEL_VARIABLE", "HashBatch", "Hasher", "find_model"]

MODEL_VARIABLE = "QUERYOPT_MODEL"
"""Environment variable that names the model to use where none is given."""

_MODEL_NAMES = ("model.onnx", "model.plan")
_AHEAD = 2
"""Batches that are decoded ahead of the one in the model."""

_log = logging.getLogger("queryopt")

StrPath = str | bytes | os.PathLike[Any]
_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class HashBatch:
    """Codes of pictures; row i of codes and logits is paths[i].

    paths: what was given (for arrays: their numbers), without the failures, in the order given.
    codes: uint8 [n, ceil(bits / 8)].
    logits: float32 [n, bits], before tanh.
    failures: what could not be read, with the reason.
    maps: float32 [n, bits, g, g], where each bit looked (see `merge_attention`), of `explain_pixels` alone.
    pixels: uint8 [n, s, s, 3], what the model saw, of `stream` alone, where it is asked for them.
    """

    paths: tuple[Any, ...]
    codes: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    failures: dict[Any, str] = field(default_factory=dict)
    maps: npt.NDArray[np.float32] | None = None
    pixels: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.paths)


class Hasher:
    """A model, ready to hash pictures. Use it from one thread at a time; close it, or use it as a context manager.

    model: a model.onnx or model.plan, or the folder of a run that was exported.
    backend: see `queryopt.runtime.backends.BACKENDS`; or one that is open, which the hasher closes.
    threads: for the model, and as many for decoding (None: as many as this process may use).
    batch: pictures in one run of the model.

    Memory is bounded by (2 + 2) batches of pixels, whatever the number of pictures. Raises ModelError, MissingError,
    UsageError; its MismatchError where an engine was not built for this GPU, package or batch.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        backend: str | Backend = "auto",
        threads: int | None = None,
        batch: int = 32,
    ) -> None:
        for name, value in (("threads", threads), ("batch", batch)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UsageError(f"{name} is {value!r}: a whole number, at least 1")
        model = _newest_model(Path(model)) or model
        if isinstance(backend, str):
            self._choice = choose_backend(model, backend)
            self._backend = open_backend(model, self._choice.name, threads)
        else:
            self._choice = BackendChoice(backend.name, "opened by the caller")
            self._backend = backend
        if isinstance(self._backend, PipelinedBackend):
            try:
                self._backend.check_batch(batch)
            except MismatchError:
                self._backend.close()
                raise
        self._model_path = Path(os.path.abspath(model))
        self._threads = threads or usable_cores()
        self._batch = batch
        card = self.card
        _log.debug(
            "%s: %s, %s, %d pixels, fingerprint %s; batches of %d",
            *(self._model_path, card.backbone, card.precision, card.preprocessing.image_size, card.fingerprint, batch),
        )

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._backend.card

    @property
    def model_path(self) -> Path:
        """The model's file, absolute."""
        return self._model_path

    @property
    def backend(self) -> str:
        """What runs the model, for people."""
        return self._backend.name

    @property
    def choice(self) -> BackendChoice:
        """Which backend was taken, and why."""
        return self._choice

    @property
    def explains(self) -> bool:
        """Whether the model says where each bit looked: it was exported with --explain, and not to an engine."""
        return isinstance(self._backend, ExplainingBackend) and self._backend.tokens is not None

    def close(self) -> None:
        """Free the model."""
        self._backend.close()

    def __repr__(self) -> str:
        return f"<Hasher {str(self._model_path)!r}: {self.card.bits} bits, {self.backend}>"

    def __enter__(self) -> "Hasher":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def stream(self, paths: Iterable[StrPath], /, *, pixels: bool = False) -> Generator[HashBatch, None, None]:
        """Hash files, batch by batch, in the order given; `paths` is read only as far as decoding has come.

        A batch covers `batch` consecutive paths, so it holds fewer pictures where some could not be read, and none
        where none could. pixels: have them in the batches, too. A file that can't be read never ends the stream. Close
        the generator to stop early: its threads end with it.
        """
        from queryopt.images import load_image

        if isinstance(paths, str | bytes | os.PathLike):
            raise UsageError(f"paths is one path, {os.fsdecode(paths)!r}: give a list of them, or use hash_folder")
        preprocessing = self.card.preprocessing

        def decode(path: StrPath) -> _Pixels:
            return load_image(path, preprocessing)

        return self._stream(paths, decode, pixels)

    def hash_files(self, paths: Iterable[StrPath], progress: Callable[[int], object] | None = None) -> HashBatch:
        """Hash picture files. progress: called with the number of files done since the last call."""
        return self._collect(self.stream(paths), progress)

    def hash_folder(self, folder: StrPath, progress: Callable[[int], object] | None = None) -> HashBatch:
        """Hash the pictures of a folder and its sub-folders, in the bytewise order of their paths.

        Paths in the result are str (os.fsdecode), beginning with `folder`. InputError where it holds no pictures.
        """
        from queryopt.images import find_images

        root = os.fsdecode(folder)
        paths = [os.path.join(root, os.fsdecode(path)) for path in find_images(folder)]
        if not paths:
            raise InputError(f"{root}: no pictures in this folder")
        return self.hash_files(paths, progress)

    def hash_arrays(self, images: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]) -> HashBatch:
        """Hash decoded pictures: uint8 [n, h, w, 3], or a sequence of uint8 [h, w, 3] of any sizes, sRGB.

        They are resized and cropped as files are, so a decoded file gives its file's code. UsageError for another
        shape or dtype. For pixels that are cropped already, see `hash_pixels`.
        """
        from PIL import Image

        from queryopt.images import resize_crop

        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise UsageError(
                f"images are {images.dtype} {list(images.shape)}: give uint8 [n, h, w, 3], or a list of [h, w, 3]"
            )
        for number, image in enumerate(images):
            _check_picture(number, image)
        preprocessing = self.card.preprocessing

        def prepare(number: int) -> _Pixels:
            return resize_crop(Image.fromarray(np.ascontiguousarray(images[number])), preprocessing)

        return self._collect(self._stream(range(len(images)), prepare), None)

    def hash_pixels(self, pixels: npt.NDArray[np.uint8]) -> HashBatch:
        """Hash the model's own input: uint8 [n, s, s, 3], resized and cropped already, s the card's image size."""
        parts = (pixels[i : i + self._batch] for i in range(0, max(1, len(pixels)), self._batch))
        outputs = list(in_flight(self._backend, parts))
        for output in outputs:
            self._check(output)
        return HashBatch(
            tuple(range(len(pixels))),
            np.concatenate([output.codes for output in outputs]),
            np.concatenate([output.logits for output in outputs]),
        )

    def explain_pixels(self, pixels: npt.NDArray[np.uint8]) -> HashBatch:
        """As `hash_pixels`, with maps of where each bit looked. UsageError where the model can't say (`explains`)."""
        if not isinstance(self._backend, ExplainingBackend):
            raise UsageError(f"{self.backend} gives no attention: take a model.onnx of qo-export --explain")
        outputs = [
            self._backend.explain(pixels[i : i + self._batch]) for i in range(0, max(1, len(pixels)), self._batch)
        ]
        for output in outputs:
            self._check(output)
        maps = [merge_attention(output.attention) for output in outputs if output.attention is not None]
        return HashBatch(
            tuple(range(len(pixels))),
            np.concatenate([output.codes for output in outputs]),
            np.concatenate([output.logits for output in outputs]),
            maps=np.concatenate(maps),
        )

    def _stream(
        self, items: Iterable[Any], load: Callable[[Any], _Pixels], keep_pixels: bool = False
    ) -> Generator[HashBatch, None, None]:
        waiting = iter(items)
        ahead: deque[_Decoding] = deque()
        running: deque[_Running] = deque()
        depth = self._backend.depth if isinstance(self._backend, PipelinedBackend) else 1
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="queryopt-decode")
        try:
            while True:
                while len(ahead) <= _AHEAD and (batch := list(islice(waiting, self._batch))):
                    ahead.append(_Decoding(pool, batch, load, self.card.preprocessing))
                if not ahead and not running:
                    return
                # A GPU copies one batch while it works on another, and meanwhile the next ones are decoded.
                while ahead and len(running) < depth:
                    running.append(_Running(ahead.popleft(), self._backend))
                done = running.popleft()
                paths, output, failures = done.wait()
                self._check(output)
                pixels = done.pixels if keep_pixels else None
                yield HashBatch(paths, output.codes, output.logits, failures, pixels=pixels)
        finally:
            # A picture that is being decoded can't be stopped, but none is begun any more.
            pool.shutdown(wait=True, cancel_futures=True)

    def _check(self, output: BackendOutput) -> None:
        check_output(output, self.card, display_path(self._model_path))

    def _collect(self, batches: Iterator[HashBatch], progress: Callable[[int], object] | None) -> HashBatch:
        bits = self.card.bits
        paths: list[Any] = []
        codes = [np.empty((0, code_bytes(bits)), np.uint8)]
        logits = [np.empty((0, bits), np.float32)]
        failures: dict[Any, str] = {}
        for batch in batches:
            paths += batch.paths
            codes.append(batch.codes)
            logits.append(batch.logits)
            failures |= batch.failures
            if progress is not None:
                progress(len(batch.paths) + len(batch.failures))
        return HashBatch(tuple(paths), np.concatenate(codes), np.concatenate(logits), failures)


class _Decoding:
    """A batch on its way: each picture is decoded into its own row, and rows of failures are taken out at the end."""

    def __init__(
        self, pool: ThreadPoolExecutor, items: list[Any], load: Callable[[Any], _Pixels], size: Preprocessing
    ) -> None:
        self._items = items
        self._load = load
        shape = (len(items), size.image_size, size.image_size, 3)
        try:
            self._pixels = np.empty(shape, np.uint8)
        except MemoryError:
            raise UsageError(f"no memory for a batch of pixels {list(shape)}: take a smaller batch") from None
        self._rows: list[Future[str | None]] = [pool.submit(self._fill, row) for row in range(len(items))]

    def wait(self) -> tuple[tuple[Any, ...], _Pixels, dict[Any, str]]:
        """What was decoded, its pixels uint8 [k, s, s, 3], and the failures. A decoder's own fault is raised here."""
        reasons = [row.result() for row in self._rows]
        kept = [row for row, reason in enumerate(reasons) if reason is None]
        pixels = self._pixels if len(kept) == len(reasons) else self._pixels[kept]
        failures = {self._items[row]: reason for row, reason in enumerate(reasons) if reason is not None}
        return tuple(self._items[row] for row in kept), pixels, failures

    def _fill(self, row: int) -> str | None:
        try:
            self._pixels[row] = self._load(self._items[row])
        except ImageError as error:
            return str(error)
        return None


class _Running:
    """A batch that was decoded, in the model."""

    def __init__(self, decoding: _Decoding, backend: Backend) -> None:
        self._paths, self.pixels, self._failures = decoding.wait()
        self._pending: Pending | None = None
        self._output: BackendOutput | None = None
        if isinstance(backend, PipelinedBackend):
            self._pending = backend.start(self.pixels)
        else:
            self._output = backend.run(self.pixels)

    def wait(self) -> tuple[tuple[Any, ...], BackendOutput, dict[Any, str]]:
        """The pictures that were read, what the model gave for them, and the failures."""
        output = self._output if self._pending is None else self._pending.result()
        assert output is not None
        return self._paths, output, self._failures


def find_model(given: str | os.PathLike[str] | None) -> Path:
    """The model to use: `given`, else $QUERYOPT_MODEL, else one here, else the newest run's; of a folder, that in it.

    model.plan goes before model.onnx where there is a GPU, else after it. Runs are looked for in ./, ./*/ and
    ./runs/*/. InputError where there is none.
    """
    if given is None:
        given = os.environ.get(MODEL_VARIABLE) or None
    if given is not None:
        return _newest_model(Path(given)) or Path(given)
    for folders in ([Path()], [*Path().glob("*"), *Path().glob("runs/*")]):
        if (model := _newest_model(*folders)) is not None:
            return model
    raise InputError(
        f"no model: give one with --model or in {MODEL_VARIABLE}, or make one here with qo-train and qo-export "
        "(looked for model.onnx and model.plan in ./, ./*/ and ./runs/*/)"
    )


def _newest_model(*folders: Path) -> Path | None:
    models = [path for folder in folders for name in _MODEL_NAMES if (path := folder / name).is_file()]
    if not models:
        return None
    newest = max(models, key=lambda path: (path.stat().st_mtime_ns, path)).parent
    names = sorted((path.name for path in models if path.parent == newest), reverse=has_gpu())
    return newest / names[0]


def _check_picture(number: int, image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        what = f"{image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(f"image {number} is {what}: a picture is a uint8 array, sRGB values from 0 to 255")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UsageError(
            f"image {number} has shape {list(image.shape)}: a picture is [height, width, 3]; make grey ones RGB with "
            "np.stack([grey] * 3, axis=2), and drop an alpha channel with [..., :3]"
        )
