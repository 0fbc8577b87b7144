"""Bring an index up to date with its folder: hash what is new or changed, keep the rest, tell what vanished."""

import logging
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.codes import check_codes
from queryopt.errors import InputError, MismatchError
from queryopt.labels import LabelRule
from queryopt.progress import Advance, Progress, no_progress
from queryopt.runtime.index.rows import Row, encode_margins, file_stamp
from queryopt.runtime.index.store import Store

__all__ = ["ImageHasher", "UpdateReport", "add", "prune", "refresh", "relabel", "update"]

_log = logging.getLogger("queryopt")

_RELABELLED = 8192
"""Rows of one transaction."""


class HashedBatch(Protocol):
    """What a hasher yields: row i of codes and logits is paths[i]; failures are not among paths."""

    @property
    def paths(self) -> Sequence[Any]: ...
    @property
    def codes(self) -> npt.NDArray[np.uint8]: ...
    @property
    def logits(self) -> npt.NDArray[np.float32]: ...
    @property
    def failures(self) -> Mapping[Any, str]: ...


class ImageHasher(Protocol):
    """What an update needs of a Hasher."""

    @property
    def card(self) -> ModelCard:
        """The card of the model."""

    @property
    def model_path(self) -> Path:
        """Where the model lies."""

    def stream(self, paths: Iterable[Any], /) -> Generator[HashedBatch, None, None]:
        """Hash files, a batch at a time, in the order given."""


@dataclass(frozen=True)
class UpdateReport:
    """What an update did. Paths are absolute, as str.

    hashed: images added.
    updated: re-hashed under their old id.
    unchanged: skipped, size and time being the same, or in a folder that can't be looked into now.
    failed: new files, and folders, that could not be read, with the reason.
    stale: images of the index that can't be read any more, with the reason; their old codes are kept.
    vanished: images of the index whose files are gone; kept without prune.
    removed: how many vanished ones were pruned.
    relabelled: images whose label was another by the index's rule.
    precisions: all that codes of this index were computed in.
    """

    hashed: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    stale: Mapping[str, str] = field(default_factory=dict)
    vanished: Sequence[str] = ()
    removed: int = 0
    precisions: tuple[str, ...] = ()
    relabelled: int = 0


@dataclass(slots=True)
class _Todo:
    """A file to hash, with its size and time as they were when it was listed."""

    relative: bytes
    size: int
    mtime_ns: int


@dataclass
class _Plan:
    todo: list[_Todo] = field(default_factory=list)
    unchanged: int = 0
    unreachable: int = 0
    """Images of the index in folders that can't be read now: nobody knows whether they are still there."""
    vanished: list[tuple[int, bytes]] = field(default_factory=list)


def update(store: Store, hasher: ImageHasher, prune: bool, force: bool, progress: Progress | None) -> UpdateReport:
    """See HashIndex.update."""
    store.check_card(hasher.card, str(hasher.model_path))
    listing = _list_images(store.meta.root, missing_is_empty=prune and force)
    plan = _plan(store, listing)
    counted = len(plan.todo), plan.unchanged, len(plan.vanished)
    _log.debug("%s: %d new or changed, %d unchanged, %d gone", store.meta.root, *counted)
    if prune:
        _check_prune(store, len(plan.vanished), force)
    store.set_meta(model_path=Path(os.path.abspath(hasher.model_path)), precision=hasher.card.precision)
    counts = _Counts(failed=dict(listing.unread))
    with (progress or no_progress)("hash", len(plan.todo)) as advance:
        _hash(store, hasher, plan.todo, counts, advance)
    removed = 0
    if prune and plan.vanished:
        with store.change() as changes:
            removed = changes.remove(id for id, _ in plan.vanished)
    return replace(_report(store, plan, counts, removed, prune), relabelled=relabel(store))


def relabel(store: Store, depth: int | None = None) -> int:
    """See HashIndex.relabel."""
    rule = LabelRule.of_folder(store.meta.root, store.card.label_depth if depth is None else depth)
    store.set_meta(label_depth=rule.depth)
    with store.read() as connection:
        known = connection.execute("SELECT path, label FROM images")
        wrong = [path for path, label in known if rule.label_of(path) != label]
    for start in range(0, len(wrong), _RELABELLED):
        with store.change() as changes:
            for path in wrong[start : start + _RELABELLED]:
                changes.relabel(path, rule.label_of(path))
    return len(wrong)


def refresh(store: Store, hasher: ImageHasher, paths: Iterable[bytes], prune: bool, force: bool) -> UpdateReport:
    """See HashIndex.refresh; paths are relative to the root."""
    store.check_card(hasher.card, str(hasher.model_path))
    root = store.meta.root
    plan = _Plan()
    with store.read(snapshot=True) as connection:
        for relative in sorted(set(paths)):
            sql = "SELECT id, size, mtime_ns, stale FROM images WHERE path = ?"
            known = connection.execute(sql, (relative,)).fetchone()
            now = _stat(os.fsencode(root), relative)
            if now[0] >= 0 or os.path.islink(os.path.join(os.fsencode(root), relative)):
                if known is not None and now == known[1:3] and not known[3]:
                    plan.unchanged += 1
                else:
                    plan.todo.append(_Todo(relative, *now))
            elif known is not None:
                plan.vanished.append((known[0], relative))
    if plan.vanished and not root.is_dir():
        raise InputError(f"{root}: the folder of the index is not there")
    if plan.vanished:
        _check_prune(store, len(plan.vanished), force, *(("removed", "remove") if prune else ("marked", "mark")))
    store.set_meta(model_path=Path(os.path.abspath(hasher.model_path)), precision=hasher.card.precision)
    counts = _Counts()
    _hash(store, hasher, plan.todo, counts, lambda count=1, note=None: None)
    removed = 0
    if plan.vanished:
        with store.change() as changes:
            if prune:
                removed = changes.remove(id for id, _ in plan.vanished)
            else:
                for _, relative in plan.vanished:
                    changes.mark_stale(relative)
    return _report(store, plan, counts, removed, prune)


def prune(store: Store, force: bool) -> int:
    """See HashIndex.prune."""
    listing = _list_images(store.meta.root, missing_is_empty=force)
    for path, reason in listing.unread.items():
        _log.warning("%s: %s", path, reason)
    plan = _plan(store, listing)
    _check_prune(store, len(plan.vanished), force)
    if not plan.vanished:
        return 0
    with store.change() as changes:
        return changes.remove(id for id, _ in plan.vanished)


def add(store: Store, paths: list[bytes], codes: npt.ArrayLike, logits: npt.ArrayLike) -> list[int]:
    """See HashIndex.add; paths are relative to the root."""
    root = os.fsencode(store.meta.root)
    todo = [_Todo(path, *_stat(root, path)) for path in paths]
    absent = [_absolute(store, one.relative) for one in todo if one.size < 0]
    if absent:
        raise InputError(f"{absent[0]}: there is no such file to add ({len(absent)} of {len(todo)} are missing)")
    rows = _rows(store, _rule(store), todo, codes, logits)
    with store.change() as changes:
        return changes.put(rows)


@dataclass
class _Counts:
    hashed: int = 0
    updated: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)


def _report(store: Store, plan: _Plan, counts: _Counts, removed: int, prune: bool) -> UpdateReport:
    return UpdateReport(
        **vars(counts),
        unchanged=plan.unchanged + plan.unreachable,
        vanished=() if prune else tuple(_absolute(store, relative) for _, relative in plan.vanished),
        removed=removed,
        precisions=store.meta.precisions,
    )


def _hash(store: Store, hasher: ImageHasher, todo: list[_Todo], counts: _Counts, advance: Advance) -> None:
    if not todo:
        return
    root, rule = os.fsencode(store.meta.root), _rule(store)
    waiting: dict[bytes, _Todo] = {}

    def paths() -> Iterator[bytes]:
        for one in todo:
            path = os.path.join(root, one.relative)
            waiting[path] = one
            yield path

    stream = hasher.stream(paths())
    # Ends the hasher's threads, also when this is interrupted.
    with closing(stream):
        for batch in stream:
            done = [waiting.pop(os.fsencode(path)) for path in batch.paths]
            rows = _rows(store, rule, done, batch.codes, batch.logits)
            failed = [(waiting.pop(os.fsencode(path)).relative, reason) for path, reason in batch.failures.items()]
            with store.change() as changes:
                before = changes.images
                changes.put(rows)
                added = changes.images - before
                stale = {path for path, _ in failed if changes.mark_stale(path)}
            counts.hashed += added
            counts.updated += len(rows) - added
            for path, reason in failed:
                (counts.stale if path in stale else counts.failed)[_absolute(store, path)] = reason
            advance(len(done) + len(failed))


def _rule(store: Store) -> LabelRule:
    return LabelRule.of_folder(store.meta.root, store.card.label_depth)


def _rows(store: Store, rule: LabelRule, todo: list[_Todo], codes: npt.ArrayLike, logits: npt.ArrayLike) -> list[Row]:
    packed = check_codes(codes, store.bits)
    margins = encode_margins(packed, logits, store.bits, store.card.logit_scale)
    if not len(todo) == len(packed) == len(margins):
        raise MismatchError(f"{len(todo)} paths, but {len(packed)} codes: each path needs its own")
    return [
        Row(one.relative, one.size, one.mtime_ns, code.tobytes(), margin.tobytes(), rule.label_of(one.relative))
        for one, code, margin in zip(todo, packed, margins, strict=True)
    ]


@dataclass
class _Listing:
    """What lies below a root. images: sorted. skipped: folders that were not looked into, each with a slash at its end.

    unread: those of them that can't be looked into, absolute, with the reason; the others are links.
    """

    images: list[bytes] = field(default_factory=list)
    skipped: list[bytes] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)


def _list_images(root: Path, missing_is_empty: bool) -> _Listing:
    from queryopt.images import NOT_FOLLOWED, find_images

    listing = _Listing()
    if not root.is_dir():
        if missing_is_empty:
            return listing
        raise InputError(
            f"{root}: the folder of the index is not there: mount it, or, if the pictures moved, say where they are "
            "now with qo-index root INDEX FOLDER"
        )

    def skip(path: bytes, reason: str) -> None:
        where = os.path.join(root, os.fsdecode(path))
        listing.skipped.append(path + b"/")
        if reason == NOT_FOLLOWED:
            _log.warning("%s: %s", where, reason)
        else:
            listing.unread[where] = reason

    listing.images = find_images(root, skip)
    return listing


def _plan(store: Store, listing: _Listing) -> _Plan:
    """Compare the sorted listing with the index, which reads sorted as well: one pass through both."""
    plan = _Plan()
    skipped = tuple(listing.skipped)
    root = os.fsencode(store.meta.root)
    images = iter(listing.images)
    path = next(images, None)
    with store.read(snapshot=True) as connection:
        known = connection.execute("SELECT path, id, size, mtime_ns, stale FROM images ORDER BY path")
        for relative, id, size, mtime_ns, stale in known:
            while path is not None and path < relative:
                plan.todo.append(_Todo(path, *_stat(root, path)))
                path = next(images, None)
            if path != relative:
                if relative.startswith(skipped):
                    plan.unreachable += 1
                else:
                    plan.vanished.append((id, relative))
                continue
            now = _stat(root, relative)
            if now == (size, mtime_ns) and not stale:
                plan.unchanged += 1
            else:
                plan.todo.append(_Todo(relative, *now))
            path = next(images, None)
    while path is not None:
        plan.todo.append(_Todo(path, *_stat(root, path)))
        path = next(images, None)
    return plan


def _stat(root: bytes, relative: bytes) -> tuple[int, int]:
    """Size and time of a file, taken before it is hashed: should it change meanwhile, the next update sees that."""
    try:
        status = os.stat(os.path.join(root, relative))
    except OSError:
        return -1, -1  # No file has these: should it be readable a moment later, it is hashed once more next time.
    return file_stamp(status)


def _check_prune(store: Store, vanished: int, force: bool, done: str = "removed", do: str = "remove") -> None:
    images = store.state().images
    if vanished * 2 > images and not force:
        raise InputError(
            f"{store.path}: {vanished} of {images} images are no longer in {store.meta.root}, more than half: nothing "
            f"was {done}. If the folder is whole (mounted, not moved), {do} them with --force"
        )


def _absolute(store: Store, relative: bytes) -> str:
    return os.path.join(store.meta.root, os.fsdecode(relative))
