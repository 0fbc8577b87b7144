"""HashIndex: the codes of a folder of images in one file, searched exactly."""

# Signatures stay as they are written: in help(), npt.ArrayLike would fill a dozen lines each time.
from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.codes import check_codes
from queryopt.errors import InputError, MismatchError, UsageError
from queryopt.progress import Progress, no_progress
from queryopt.runtime.index import merge as merging
from queryopt.runtime.index import root as moving
from queryopt.runtime.index import update as updating
from queryopt.runtime.index import verify as verifying
from queryopt.runtime.index.blocks import join_blocks, read_blocks
from queryopt.runtime.index.connection import Access, wal_bytes
from queryopt.runtime.index.merge import MergeReport
from queryopt.runtime.index.meta import Meta
from queryopt.runtime.index.root import RootReport
from queryopt.runtime.index.rows import IndexedImage, encode_margins, read_margins, read_page
from queryopt.runtime.index.schema import SCHEMA_VERSION
from queryopt.runtime.index.searcher import Searcher
from queryopt.runtime.index.store import CHOOSE, Store
from queryopt.runtime.index.update import ImageHasher, UpdateReport
from queryopt.runtime.index.verify import VerifyReport
from queryopt.runtime.outputs import CodeRows, writing_codes
from queryopt.runtime.search import Explanation, RadiusResult, Rank, RankName, SearchResult
from queryopt.runtime.search.ranked import check_rank

__all__ = ["HashIndex", "IndexInfo"]

_EXPORTED = 8192
"""Images that `export` holds at a time."""

Answer = TypeVar("Answer")
StrPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


@dataclass(frozen=True)
class IndexInfo:
    """Facts of an index. bytes: the file with its log; log_bytes: the log alone (0 at rest)."""

    path: Path
    schema_version: int
    images: int
    stale: int
    labels: int
    last_id: int
    bits: int
    card: ModelCard
    precisions: tuple[str, ...]
    root: Path
    root_exists: bool
    model_path: Path | None
    bytes: int
    log_bytes: int
    access: str
    created_by: str


class HashIndex:
    """An index of the images below one folder, its root: `HashIndex.create(...)` or `HashIndex.open(...)`.

    Ids are integers from 1 and never used twice. A method that changes the index has committed to disk when it returns
    (kill -9 and a loss of power lose nothing of it); if it raises, what it had not committed is as before. Other
    processes may read and write the same file at the same time, and a search sees all that any of them committed.
    Close it, or use it as a context manager. Its methods may be called from several threads; don't take it over a fork.

    Raises IndexFileError for a file that is damaged, foreign, newer, or held by another writer for too long.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._searcher = Searcher(store)

    @classmethod
    def create(
        cls, path: StrPath, card: ModelCard, root: StrPath, model_path: StrPath | None = None, timeout: float = 30
    ) -> HashIndex:
        """Make an empty index file for the images below `root`, and open it.

        card: that of the model whose codes it will hold; model_path: where that model lies, if known. UsageError where
        there is a file at `path` already, InputError where root is no folder. timeout: see `open`.
        """
        where, folder = _absolute(path), _absolute(root)
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder of images")
        Store.create(
            where, Meta(card, folder, None if model_path is None else _absolute(model_path), (card.precision,))
        )
        return cls.open(where, timeout=timeout)

    @classmethod
    def open(cls, path: StrPath, readonly: bool = False, timeout: float = 30) -> HashIndex:
        """Open an index file. InputError where there is none.

        readonly: for searching alone. An index in a place where nothing can be written (read-only media) is opened
        so by itself, and the log says so. timeout: seconds to wait for another writer before IndexFileError.
        """
        return cls(Store.open(_absolute(path), readonly, timeout))

    def close(self) -> None:
        """Close the file. The last process to do so leaves one file, without a log beside it."""
        self._store.close()

    def __enter__(self) -> HashIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The index file, absolute."""
        return self._store.path

    @property
    def card(self) -> ModelCard:
        """The model card of the codes."""
        return self._store.card

    @property
    def bits(self) -> int:
        """The code length."""
        return self._store.bits

    @property
    def root(self) -> Path:
        """The folder of the images, absolute."""
        return self._store.meta.root

    @property
    def model_path(self) -> Path | None:
        """Where the model lay that last hashed for this index, absolute."""
        return self._store.meta.model_path

    @property
    def readonly(self) -> bool:
        """Whether nothing can be changed: asked for, or because the place can't be written."""
        return self._store.access is not Access.WRITE

    @property
    def replaced(self) -> bool:
        """Whether the file was deleted, moved, or made anew since it was opened: this index is then the former one."""
        return self._store.replaced

    def check_root(self, folder: StrPath) -> None:
        """Raise MismatchError unless `folder` is the root (by whatever name)."""
        other = _absolute(folder)
        if os.path.realpath(other) != os.path.realpath(self.root):
            name = other.name or "pictures"
            own_name = f"{name}.db" if _absolute(f"{name}.db") != self.path else f"{name}-2.db"
            own = f"give {other} an index of its own, say --index {shlex.quote(own_name)}"
            if self.root.is_dir():
                raise MismatchError(f"{self.path} is the index of {self.root}, not of {other}: {own}")
            moved = f"qo-index root {shlex.quote(str(self.path))} {shlex.quote(str(other))}"
            raise MismatchError(
                f"{self.path} is the index of {self.root}, which is not there: if its pictures are in {other} now, run "
                f"{moved}; else {own}"
            )

    def check_card(self, card: ModelCard, what: str = "the model", remedy: str = CHOOSE) -> None:
        """Raise MismatchError unless codes made with `card` can be compared with those here.

        what: names its origin. remedy: what to do, to end the message with. Another precision or backend of the same
        checkpoint is fine.
        """
        self._store.check_card(card, what, remedy)

    def move_root(self, folder: StrPath, force: bool = False) -> RootReport:
        """Say that the images lie below another folder now, under the same relative paths.

        Up to some 2,000 of them are looked for there; the report says how many were found. InputError, and nothing is
        changed, where none is there, unless `force`.
        """
        return moving.move_root(self._store, _absolute(folder), force)

    def update(
        self, hasher: ImageHasher, prune: bool = False, force: bool = False, progress: Progress | None = None
    ) -> UpdateReport:
        """Hash the images below the root that are new or changed (in size or time), batch by batch, each committed.

        An image that can't be read any more keeps its old code, marked stale. prune: remove the images whose files are
        gone; refused (InputError) where the root is missing or more than half would go, unless `force`. progress: see
        `Progress`. MismatchError for a hasher of another model; another precision of the same is taken and reported.
        """
        return updating.update(self._store, hasher, prune, force, progress)

    def refresh(
        self, hasher: ImageHasher, paths: Iterable[StrPath], prune: bool = False, force: bool = False
    ) -> UpdateReport:
        """Bring these files alone up to date, as `update` does with all: what a watcher of the folder calls.

        paths: absolute, or relative to the root; files that are there or gone, whether or not the index knows them. One
        that is gone is marked stale and named in `vanished`, or, with `prune`, removed; either is refused (InputError),
        and nothing is changed, where that is more than half of the index, unless `force`, or the root itself is gone.
        """
        return updating.refresh(self._store, hasher, [self._relative(path) for path in paths], prune, force)

    def relabel(self, depth: int | None = None) -> int:
        """Bring all labels to the index's rule, which `update` does too. Returns how many were others.

        depth: from now on so many folders below the root name a class (see LabelRule); None: as many as before, which
        in a new index is what the model's card says.
        """
        return updating.relabel(self._store, depth)

    def find_below(self, folder: StrPath) -> list[bytes]:
        """The paths, relative to the root, of the images that the index has below a folder, sorted."""
        return self._store.find_below(self._relative(folder))

    def prune(self, force: bool = False) -> int:
        """Remove the images whose files are gone, as `update(prune=True)` does. Returns how many."""
        return updating.prune(self._store, force)

    def add(self, paths: Sequence[StrPath], codes: npt.ArrayLike, logits: npt.ArrayLike) -> list[int]:
        """Add images with their codes, or replace those of these paths under the same ids; all are committed, or none.

        paths: of existing files below the root, absolute or relative to it. codes: uint8 [n, ceil(bits / 8)] or
        uint64 [n], made with the model of this index. logits: float [n, bits]. Returns the ids.
        """
        return updating.add(self._store, [self._relative(path) for path in paths], codes, logits)

    def remove(self, items: int | StrPath | Iterable[int | StrPath]) -> int:
        """Remove images, or one, by id or path (absolute, or relative to the root); all, or, if one isn't there, none.

        Returns how many. UsageError names those that are not in the index.
        """
        # Bytes are a path, not ids.
        given = [items] if isinstance(items, int | np.integer | str | bytes | os.PathLike) else list(items)
        with self._store.change() as changes:
            ids = [self._id_of(item) for item in given]
            missing = [item for item, id in zip(given, ids, strict=True) if id is None]
            if missing:
                names = ", ".join(map(_name, missing[:10])) + (", …" if len(missing) > 10 else "")
                raise UsageError(f"{self.path}: nothing was removed, as these are not in the index: {names}")
            return changes.remove(id for id in ids if id is not None)

    def merge(self, other: HashIndex, progress: Progress | None = None) -> MergeReport:
        """Take in the images of another index of the same model, with new ids.

        Paths are expressed relative to this index's root; MismatchError, and nothing is changed, where an image lies
        outside of it. Where both know a path, this index's image stays under its id, and takes over the other's code if
        that was hashed from a newer file or this one is stale. Committed in steps; merging again goes on from there.
        """
        return merging.merge(self._store, other._store, progress)

    def backup(self, path: StrPath) -> None:
        """Write a copy of the index as it is now, while others may go on writing. UsageError where there is a file."""
        self._store.backup(_absolute(path))

    def export(self, path: StrPath, progress: Progress | None = None) -> int:
        """Write all codes to a file for other programs; see `queryopt.runtime.outputs`. Returns how many.

        The ending of its name says the format: .npz, .csv or .parquet. Paths are relative to the root. UsageError for
        another ending, MissingError where a package that it needs is not installed.
        """
        images, count = self._store.images(), 0
        with (
            writing_codes(_absolute(path), self.card, with_ids=True) as write,
            (progress or no_progress)("export", len(self)) as advance,
        ):
            while some := list(islice(images, _EXPORTED)):
                write(
                    CodeRows(
                        [image.relative for image in some],
                        np.stack([image.code for image in some]),
                        np.stack([image.margins for image in some]),
                        [image.label for image in some],
                        np.array([image.id for image in some], np.int64),
                    )
                )
                count += len(some)
                advance(len(some))
        return count

    def verify(self, repair: bool = False, progress: Progress | None = None) -> VerifyReport:
        """Check every checksum, compare blocks with rows, and run SQLite's integrity check; names what is damaged.

        repair: build damaged blocks anew, where all rows are sound, after a backup beside the index.
        """
        return verifying.verify(self._store, repair, progress)

    def search(
        self,
        codes: npt.ArrayLike,
        k: int,
        *,
        logits: npt.ArrayLike | None = None,
        margins: npt.ArrayLike | None = None,
        rank: RankName | None = None,
        allow: npt.ArrayLike | None = None,
        deny: npt.ArrayLike | None = None,
    ) -> SearchResult:
        """The first k images of each code, exactly: the nearest, or the first in the order of another rank. Where there
        are fewer, id -1 at distance bits + 1 fills up.

        codes: uint8 [queries, ceil(bits / 8)] or uint64 [queries], made with the model of this index.
        logits: of the queries, float [queries, bits], as the model gave them with the codes.
        margins: of the queries, int8 [queries, bits], in place of logits: those of images of an index.
        rank: the order. 'margin' is (distance, squared distance of the margins, id), with these squares as scores; an
            image's own logits find it at distance and score 0. 'id' is (distance, id). 'weighted' and 'tiebreak' weigh
            the bits that differ, see `HammingIndex.search`. If None, 'margin' where logits or margins are given, else
            'id'.
        allow: only images of these ids may be found (integers [m]). deny: these may not.

        The first searches scan all codes; when about a thousand queries have come, the quicker structure of
        HammingIndex is built (see `prepare`).
        """
        chosen = _choose_rank(rank, logits, margins)
        if chosen == "margin":
            own = self._query_margins(codes, logits, margins)
            return self._searcher.search_by_margins(
                _count(codes), lambda index: index.search(codes, k, margins=own, rank="margin", allow=allow, deny=deny)
            )
        logits = margins if logits is None else logits
        searcher = self._searcher.current(_count(codes))
        return searcher.search(codes, k, logits=logits, rank=chosen, allow=allow, deny=deny)

    def search_radius(
        self,
        codes: npt.ArrayLike,
        radius: int,
        *,
        logits: npt.ArrayLike | None = None,
        margins: npt.ArrayLike | None = None,
        allow: npt.ArrayLike | None = None,
        deny: npt.ArrayLike | None = None,
    ) -> RadiusResult:
        """All images at a Hamming distance <= radius of each code; the rest as in `search`.

        In the order of rank 'margin' where logits or margins of the queries are given, else in that of 'id'.
        """
        if logits is None and margins is None:
            return self._searcher.current(_count(codes)).search_radius(codes, radius, allow=allow, deny=deny)
        own = self._query_margins(codes, logits, margins)
        return self._searcher.search_by_margins(
            _count(codes), lambda index: index.search_radius(codes, radius, margins=own, allow=allow, deny=deny)
        )

    def in_one_state(self, work: Callable[[], Answer]) -> Answer:
        """What `work` finds by several searches and reads, all of them of one state of the index.

        It is done again, and others' commits are not seen meanwhile, where one came in between.
        """
        revision = self.revision
        answer = work()
        if self.revision == revision:
            return answer
        with self._store.read(snapshot=True):
            return work()

    def prepare(self) -> Explanation:
        """Read the codes and build the structure for many searches now (seconds for ten million images).

        Returns how the index is searched from now on; what is added later is found without building all anew.
        """
        return self._searcher.current(0).explain()

    def __repr__(self) -> str:
        return f"<HashIndex {str(self.path)!r}: {self.bits} bits, of {str(self.root)!r}>"

    def __len__(self) -> int:
        return self._store.state().images

    def __bool__(self) -> bool:
        """An index is true, also without images."""
        return True

    def __contains__(self, id: Any) -> bool:
        """Whether there is an image of this id."""
        return _is_id(id) and self._store.has(int(id))

    def __getitem__(self, id: int | np.integer[Any]) -> IndexedImage:
        """The image of an id. UsageError where there is none."""
        image = self._store.image(int(id)) if _is_id(id) else None
        if image is None:
            raise UsageError(f"{self.path}: there is no image with id {id!r}")
        return image

    def __iter__(self) -> Iterator[IndexedImage]:
        return self._store.images()

    def page(self, after: int, count: int) -> list[IndexedImage]:
        """Up to `count` images with ids above `after`, in id order."""
        with self._store.read() as connection:
            rows = read_page(connection, after, self._store.source, count)
        return [self._store.decode(row) for row in rows]

    def margins(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]]:
        """The margins of all images in id order, part by part: ids int64 [n], margins int8 [n, bits].

        A quick look over millions: checksums of rows are not compared. IndexFileError where one has no `bits` margins.
        """
        after = -1
        while True:
            with self._store.read() as connection:
                ids, margins = read_margins(connection, after, self.bits, self._store.source)
            if not len(ids):
                return
            yield ids, margins
            after = int(ids[-1])

    def codes(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        """All ids, ascending int64 [n], and their codes, uint8 [n, ceil(bits / 8)], as of now."""
        with self._store.read(snapshot=True) as connection:
            return join_blocks(list(read_blocks(connection, self._store.source, self.bits)), self.bits)

    def labels(self, ids: Iterable[int]) -> dict[int, str | None]:
        """The label of each image that is (still) there."""
        return self._store.labels(ids)

    @property
    def last_id(self) -> int:
        """The largest id that was ever given; 0 before the first."""
        return self._store.state().last_id

    @property
    def revision(self) -> int:
        """The number of the last change; it grows with each, whoever makes it."""
        return self._store.state().revision

    def find(self, path: StrPath) -> IndexedImage | None:
        """The image of a path (absolute, or relative to the root); None where it is not in the index."""
        id = self._id_of(path)
        return None if id is None else self._store.image(id)

    def info(self) -> IndexInfo:
        """Facts of the index."""
        meta, state = self._store.meta, self._store.state()
        with self._store.read() as connection:
            stale, labels = connection.execute(
                "SELECT coalesce(sum(stale), 0), count(DISTINCT label) FROM images"
            ).fetchone()
        log = wal_bytes(self.path)
        return IndexInfo(
            path=self.path,
            schema_version=SCHEMA_VERSION,
            images=state.images,
            stale=stale,
            labels=labels,
            last_id=state.last_id,
            bits=self.bits,
            card=meta.card,
            precisions=meta.precisions,
            root=meta.root,
            root_exists=meta.root.is_dir(),
            model_path=meta.model_path,
            bytes=os.stat(self.path).st_size + log,
            log_bytes=log,
            access=self._store.access.value,
            created_by=meta.created_by,
        )

    def _query_margins(
        self, codes: npt.ArrayLike, logits: npt.ArrayLike | None, margins: npt.ArrayLike | None
    ) -> npt.NDArray[np.int8]:
        """Those given, or those that images with these logits would have."""
        if logits is None:
            return np.asarray(margins)
        if margins is not None:
            raise UsageError("both logits and margins are given: they say the same, so give one of them")
        return encode_margins(check_codes(codes, self.bits), logits, self.bits, self.card.logit_scale)

    def _id_of(self, item: Any) -> int | None:
        """The id of an image given by id or path, if it is in the index."""
        if _is_id(item):
            return int(item) if self._store.has(int(item)) else None
        try:
            return self._store.find(self._relative(item))
        except UsageError:
            return None

    def _relative(self, path: StrPath) -> bytes:
        """A path relative to the root. UsageError for one that leaves it."""
        if not isinstance(path, str | bytes | os.PathLike):
            raise UsageError(f"{path!r} is neither a path nor an id")
        root = os.fsencode(self.root)
        full = os.path.join(root, os.fsencode(path))
        # As written first: a link below the root is an image below the root, wherever it points.
        for base, inside in ((root, os.path.abspath(full)), (os.path.realpath(root), os.path.realpath(full))):
            relative = os.path.relpath(inside, base)
            if relative not in (b".", b"..") and not relative.startswith(b"../"):
                return relative
        raise UsageError(f"{os.fsdecode(path)}: not below {self.root}, the folder of the index {self.path}")


def _choose_rank(rank: str | None, logits: npt.ArrayLike | None, margins: npt.ArrayLike | None) -> Rank:
    known = logits is not None or margins is not None
    if rank is None:
        return "margin" if known else "id"
    chosen = check_rank(rank)
    if chosen == "margin" and not known:
        raise UsageError("rank 'margin' needs the queries' logits or margins: give logits= or margins=")
    return chosen


def _absolute(path: StrPath) -> Path:
    return Path(os.path.abspath(os.fsdecode(path)))


def _name(item: Any) -> str:
    """An image as it was named, for messages."""
    return repr(os.fsdecode(item)) if isinstance(item, str | bytes | os.PathLike) else str(item)


def _count(codes: npt.ArrayLike) -> int:
    """How many queries; wrong ones are refused where they are searched for."""
    return max(np.shape(codes)[0], 1) if np.ndim(codes) else 1


def _is_id(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < 1 << 63
