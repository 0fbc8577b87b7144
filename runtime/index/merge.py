"""Take the images of another index into one."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from queryopt.errors import MismatchError, UsageError
from queryopt.labels import LabelRule
from queryopt.progress import Progress, no_progress
from queryopt.runtime.index.rows import IndexedImage, Row
from queryopt.runtime.index.store import Store

__all__ = ["HASH_AGAIN", "MergeReport", "merge"]

HASH_AGAIN = "an index holds codes of one model: hash the pictures of one of the two again with the model of the other"
"""What to do about indexes of two models."""

_ROWS = 8192
"""Rows of one transaction: merging is committed in steps, and merging again goes on where it was broken off."""


@dataclass(frozen=True)
class MergeReport:
    """added: images that were new. updated: here too, but older or stale, and replaced. kept: here too, and left."""

    added: int
    updated: int
    kept: int


def merge(store: Store, other: Store, progress: Progress | None) -> MergeReport:
    """See HashIndex.merge."""
    if os.path.samefile(store.path, other.path):
        raise UsageError(f"{store.path}: an index can't be merged with itself")
    store.check_card(other.card, f"the model of {other.path}", HASH_AGAIN)
    relative = _translate(store, other)
    added = updated = total = 0
    for precision in other.meta.precisions:
        store.set_meta(precision=precision)
    images, rule = other.images(), LabelRule.of_folder(store.meta.root, store.card.label_depth)
    with (progress or no_progress)("merge", other.state().images) as advance:
        while page := list(islice(images, _ROWS)):
            with store.change() as changes:
                rows = list(_wanted(store, rule, [(relative(image.relative), image) for image in page]))
                before = changes.images
                changes.put(rows)
                added += changes.images - before
                updated += len(rows) - (changes.images - before)
            total += len(page)
            advance(len(page))
    return MergeReport(added, updated, total - added - updated)


def _wanted(store: Store, rule: LabelRule, images: list[tuple[bytes, IndexedImage]]) -> Iterator[Row]:
    """Those that are new, and those that know better: hashed from a newer file, or sound where ours is stale."""
    for path, image in images:
        id = store.find(path)
        ours = None if id is None else store.image(id)
        if ours is None or (not image.stale and (ours.stale or image.mtime_ns > ours.mtime_ns)):
            # Seen from another root, an image may have another folder, or none: its label as an update gives it.
            yield replace(Row.of(image, path), label=rule.label_of(path))


def _translate(store: Store, other: Store) -> Callable[[bytes], bytes]:
    """From paths relative to the other root to paths relative to ours. MismatchError where some lie outside of ours."""
    ours, theirs = (os.fsencode(os.path.realpath(one.meta.root)) for one in (store, other))
    down = os.path.relpath(theirs, ours)
    if down == b".":
        return lambda path: path
    if down.split(b"/")[0] != b"..":
        return lambda path: os.path.join(down, path)
    up = os.path.relpath(ours, theirs)
    inside = b"" if up.split(b"/")[0] == b".." else up + b"/"
    with other.read() as connection:
        outside = connection.execute(
            "SELECT count(*) FROM images WHERE ? = x'' OR substr(path, 1, ?) <> ?", (inside, len(inside), inside)
        ).fetchone()[0]
    if outside:
        raise MismatchError(
            f"{other.path}: {outside} of its images are not below {store.meta.root}, the folder of {store.path}: merge "
            f"both into a new index, whose folder is one above both (qo-index merge NEW {store.path} {other.path})"
        )
    return lambda path: path[len(inside) :]
