"""Codes to search in and codes to search with: made from a seed in bounded memory, or read from a file.

Codes are made in chunks whose random draws depend on the seed and the chunk's number alone, so the first codes of a
large gallery are those of a small one, and galleries of several sizes are slices of one array.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.files import read_codes
from queryopt.codes import check_bits, code_bytes, uint64_to_codes
from queryopt.errors import InputError, UsageError

__all__ = ["KINDS", "Data", "DataSpec", "make_data", "specifications", "to_words"]

KINDS: Final = {
    "clustered": "classes of equal size: a random code a class, each bit flipped with probability --flip",
    "zipf": "the same with classes of Zipf's sizes: that of rank r holds 1 / r as many codes as the first",
    "uniform": "random codes",
    "equal": "all codes but one equal",
}
"""The kinds of generated data, and what they are."""

_CHUNK = 1 << 16
"""Codes drawn at once: 512 KiB of words, which stay in a core's cache through all steps."""

_CLASSES, _GALLERY, _QUERIES, _FAR, _ODD = range(5)
"""Streams of random numbers of one seed."""

_FAR_CANDIDATES, _FAR_SAMPLE = 64, 2048

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class DataSpec:
    """What to search in, and with what.

    kind: one of KINDS, or a file that `read_codes` reads. bits: the code length; of a file, None for its own.
    count: codes of the gallery; of a file at most, None for all. queries: codes to search with; new pictures of the
    same classes, or, if `far`, codes that are far from all others. Queries of a file are taken out of it, up to a
    tenth of its codes. classes, flip: of clustered data, and flip also of the queries of equal codes; classes None: a
    thousand, or one for 10,000 codes where that is more.
    """

    kind: str
    bits: int | None
    count: int | None
    queries: int = 1000
    classes: int | None = None
    flip: float = 0.05
    far: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """UsageError where these are no data."""
        if self.bits is not None:
            check_bits(self.bits)
        if self.queries < 1 or (self.count is not None and self.count < 1):
            raise UsageError("a search needs at least one code and one query")
        if not 0 <= self.flip <= 0.5:
            raise UsageError(
                f"flip is {self.flip:g}: a probability from 0 (codes of a class are equal) to 0.5 (random)"
            )
        if self.kind in KINDS and (self.bits is None or self.count is None):
            raise UsageError(f"{self.kind} data need a code length and a number of codes")

    @property
    def generated(self) -> bool:
        """Whether the data are made, not read from a file."""
        return self.kind in KINDS

    @property
    def clustered(self) -> bool:
        """Whether the data have classes."""
        return self.kind in ("clustered", "zipf")

    def class_count(self) -> int:
        """How many classes clustered data have."""
        assert self.count is not None
        return self.classes or max(1000, self.count // 10_000)

    def resized(self, count: int | None) -> "DataSpec":
        """The specification of the first `count` of these codes (None: of all), with one query."""
        classes = self.class_count() if self.clustered else self.classes
        return replace(self, count=count, queries=1, classes=classes, far=False)

    def describe(self) -> str:
        """The data in a few words."""
        words = self.kind
        if self.clustered:
            words += f", {self.class_count():,} classes, flip {self.flip:g}"
        return words + (", queries far from all codes" if self.far else "")


@dataclass(frozen=True, eq=False)
class Data:
    """Packed codes: codes uint8 [n, ceil(bits / 8)] of the gallery, queries uint8 [q, ceil(bits / 8)]."""

    bits: int
    codes: npt.NDArray[np.uint8]
    queries: npt.NDArray[np.uint8]


def specifications(
    kinds: Sequence[str],
    bits: Sequence[int] | None = None,
    counts: Sequence[int] | None = None,
    flips: Sequence[float] = (0.05,),
    **settings: Any,
) -> tuple[DataSpec, ...]:
    """A specification for each kind of data (or file) with each code length and, where that matters, each flip.

    Its count is the largest of `counts`. None: 48 bits, a million codes, and all that a file has. settings: the other
    fields.
    """
    specs = []
    for kind in kinds:
        generated = kind in KINDS
        count = max(counts) if counts else 1_000_000 if generated else None
        for length in bits or ((48,) if generated else (None,)):
            for flip in flips if kind in ("clustered", "zipf", "equal") else flips[:1]:
                specs.append(DataSpec(kind, length, count, flip=flip, **settings))
    return tuple(specs)


def make_data(spec: DataSpec) -> Data:
    """Make or read the codes of a specification: the same for equal ones. Beside the result it needs a few MB."""
    if not spec.generated:
        data = _from_file(spec)
    else:
        assert spec.bits is not None
        assert spec.count is not None
        source = _Source(spec, spec.bits)
        codes = np.empty((spec.count, code_bytes(spec.bits)), np.uint8)
        source.fill(codes, _GALLERY)
        if spec.kind == "equal":
            odd = _random(_stream(spec.seed, _ODD, 0), 1, spec.bits)
            codes[spec.count // 2] = uint64_to_codes(odd, spec.bits)[0]
        queries = np.empty((spec.queries, codes.shape[1]), np.uint8)
        source.fill(queries, _QUERIES)
        data = Data(spec.bits, codes, queries)
    if spec.far:
        return Data(data.bits, data.codes, _far_queries(spec, data))
    return data


def to_words(codes: npt.NDArray[np.uint8]) -> Words:
    """Packed codes uint8 [n, bytes] as uint64 [n]. Copies: unlike codes_to_uint64 it doesn't check what was checked."""
    padded = np.zeros((len(codes), 8), np.uint8)
    padded[:, : codes.shape[1]] = codes
    words: Words = padded.view("<u8")[:, 0].astype(np.uint64, copy=False)
    return words


class _Source:
    """Draws codes of generated data."""

    def __init__(self, spec: DataSpec, bits: int) -> None:
        self._spec, self._bits = spec, bits
        rng = _stream(spec.seed, _CLASSES, 0)
        classes = spec.class_count() if spec.clustered else 1
        self._classes = _random(rng, classes, bits)
        sizes = 1 / np.arange(1, classes + 1) if spec.kind == "zipf" else np.ones(classes)
        self._ends = np.cumsum(sizes) / np.sum(sizes)

    def fill(self, codes: npt.NDArray[np.uint8], stream: int) -> None:
        """Draw codes of one stream into `codes`."""
        for number, start in enumerate(range(0, len(codes), _CHUNK)):
            part = codes[start : start + _CHUNK]
            words = self._draw(_stream(self._spec.seed, stream, number), gallery=stream == _GALLERY)
            part[:] = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)[: len(part), : codes.shape[1]]

    def _draw(self, rng: np.random.Generator, gallery: bool) -> Words:
        spec = self._spec
        if spec.kind == "uniform":
            return _random(rng, _CHUNK, self._bits)
        if spec.kind == "equal":
            words = np.full(_CHUNK, self._classes[0])
            return words if gallery else words ^ _flips(rng, _CHUNK, self._bits, spec.flip)
        if spec.kind == "zipf":
            chosen = np.searchsorted(self._ends, rng.random(_CHUNK), side="right").clip(max=len(self._ends) - 1)
        else:
            chosen = rng.integers(len(self._classes), size=_CHUNK)
        means: Words = self._classes[chosen]
        return means ^ _flips(rng, _CHUNK, self._bits, spec.flip)


def _stream(seed: int, stream: int, chunk: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, stream, chunk]))


def _random(rng: np.random.Generator, count: int, bits: int) -> Words:
    words: Words = rng.integers(0, (1 << 64) - 1, count, np.uint64, endpoint=True)
    return words >> np.uint64(64 - bits)


def _flips(rng: np.random.Generator, count: int, bits: int, probability: float) -> Words:
    """Words whose bits are one with a probability, to 16 binary digits.

    Each random word is one digit of 64 comparisons "a random number < probability", the last digit first: where the
    digit is 1, the number's digit 0 decides for, where it is 0, the number's digit 1 against. A draw for each bit would
    take ten times as long.
    """
    digits = round(probability * 65536)
    mask: Words = np.zeros(count, np.uint64)
    for place in range(16):
        if digits & ((2 << place) - 1):  # up to the first digit that is 1, the mask stays zero
            words = rng.integers(0, (1 << 64) - 1, count, np.uint64, endpoint=True)
            if digits >> place & 1:
                mask |= words
            else:
                mask &= words
    return mask >> np.uint64(64 - bits)


def _far_queries(spec: DataSpec, data: Data) -> npt.NDArray[np.uint8]:
    """Of random codes and of complements of the gallery's codes, those whose nearest of a sample is farthest."""
    rng = _stream(spec.seed, _FAR, 0)
    rows = rng.integers(len(data.codes), size=_FAR_SAMPLE)
    sample = to_words(data.codes[rows])
    ones = np.uint64((1 << data.bits) - 1)
    queries = np.empty(len(data.queries), np.uint64)
    for i in range(len(queries)):
        half = _FAR_CANDIDATES // 2
        opposite = rng.choice(sample, half) ^ ones ^ _flips(rng, half, data.bits, spec.flip)
        candidates = np.concatenate([_random(rng, half, data.bits), opposite])
        nearest = np.bitwise_count(candidates[:, None] ^ sample).min(axis=1)
        queries[i] = candidates[np.argmax(nearest)]
    return uint64_to_codes(queries, data.bits)


def _from_file(spec: DataSpec) -> Data:
    bits, codes = read_codes(spec.kind, spec.bits)
    if len(codes) < 2:
        raise InputError(
            f"{spec.kind}: a search needs at least two codes, one of them to search with: it has {len(codes)}"
        )
    taken = np.zeros(len(codes), np.bool_)
    count = min(spec.queries, max(1, len(codes) // 10))
    taken[_stream(spec.seed, _QUERIES, 0).choice(len(codes), count, replace=False)] = True
    return Data(bits, np.concatenate(list(_kept(codes, ~taken, spec.count))), codes[taken])


def _kept(
    codes: npt.NDArray[np.uint8], keep: npt.NDArray[np.bool_], count: int | None
) -> Iterator[npt.NDArray[np.uint8]]:
    left = len(codes) if count is None else count
    for start in range(0, len(codes), _CHUNK):
        part = codes[start : start + _CHUNK][keep[start : start + _CHUNK]][:left]
        left -= len(part)
        yield part
