"""A folder of small pictures, and a hasher whose codes depend on the pictures' pixels alone."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from queryopt.card import ModelCard, Preprocessing
from queryopt.codes import code_bytes, pack_codes
from queryopt.errors import ImageError
from queryopt.images import load_image
from queryopt.runtime.index import HashIndex

Codes = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


def _make_card(bits: int = 12, seed: int = 0, precision: str = "fp32") -> ModelCard:
    return ModelCard(bits, Preprocessing(8, 8), "tiny", precision, logit_scale=2.5, fingerprint=f"{seed:064x}")


def _random_codes(count: int, bits: int = 12, seed: int = 0) -> Codes:
    logits = np.random.default_rng(seed).uniform(-2.5, 2.5, (count, bits)).astype(np.float32)
    return pack_codes(logits >= 0), logits


def _draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path, format="PNG")


def _fill(index: HashIndex, names: list[str], seed: int = 0) -> list[int]:
    for name in names:
        (index.root / name).parent.mkdir(parents=True, exist_ok=True)
        if not (index.root / name).exists():
            (index.root / name).touch()
    return index.add(names, *_random_codes(len(names), index.bits, seed))


@dataclass(frozen=True)
class PixelBatch:
    paths: list[Any]
    codes: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    failures: dict[Any, str]


@dataclass
class PixelHasher:
    """A model that needs no ONNX Runtime: a picture's pixels seed its logits."""

    card: ModelCard = field(default_factory=_make_card)
    model_path: Path = Path("model.onnx")
    batch: int = 3
    seen: list[bytes] = field(default_factory=list)

    def stream(self, paths: Iterable[bytes]) -> Generator[PixelBatch, None, None]:
        waiting = iter(paths)
        while chunk := list(islice(waiting, self.batch)):
            done, logits, failures = [], [], {}
            for path in chunk:
                self.seen.append(path)
                try:
                    pixels = load_image(path, self.card.preprocessing)
                except ImageError as error:
                    failures[path] = str(error)
                    continue
                done.append(path)
                logits.append(np.random.default_rng(pixels.ravel()).uniform(-2.5, 2.5, self.card.bits))
            array = np.array(logits, np.float32).reshape(-1, self.card.bits)
            codes = pack_codes(array >= 0) if done else np.empty((0, code_bytes(self.card.bits)), np.uint8)
            yield PixelBatch(done, codes, array, failures)


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    """(bits=12, seed=0, precision="fp32") -> a card; the seed makes the fingerprint."""
    return _make_card


@pytest.fixture
def random_codes() -> Callable[..., Codes]:
    """(count, bits=12, seed=0) -> codes and logits that belong together."""
    return _random_codes


@pytest.fixture
def draw() -> Callable[[Path, int], None]:
    """(path, seed): write a small picture."""
    return _draw


@pytest.fixture
def fill() -> Callable[..., list[int]]:
    """(index, names, seed=0) -> ids: add files of these names, which needn't be pictures, with random codes."""
    return _fill


@pytest.fixture
def make_hasher() -> Callable[..., PixelHasher]:
    return PixelHasher


@pytest.fixture
def hasher() -> PixelHasher:
    return PixelHasher()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures: two directly in the root, three of one class, two of another."""
    root = tmp_path / "photos"
    names = ["one.png", "two.png", "cats/a.png", "cats/b.png", "cats/c.png", "birds/wren/1.png", "birds/wren/2.png"]
    for seed, name in enumerate(names):
        _draw(root / name, seed)
    return root


@pytest.fixture
def index(tmp_path: Path, photos: Path) -> Iterator[HashIndex]:
    """An index beside the photos, still without images."""
    with HashIndex.create(tmp_path / "photos.db", _make_card(), photos) as opened:
        yield opened
