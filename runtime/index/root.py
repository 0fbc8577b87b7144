"""Say that the images of an index lie below another folder now, after a look whether they do."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from queryopt.errors import InputError
from queryopt.runtime.index.store import Store

__all__ = ["RootReport", "move_root"]

_SAMPLE = 2000
"""Files that are looked for: on a network's file system each may take milliseconds."""


@dataclass(frozen=True)
class RootReport:
    """found: how many of the `checked` files are below the new root. images: how many the index has."""

    found: int
    checked: int
    images: int


def move_root(store: Store, root: Path, force: bool) -> RootReport:
    """See HashIndex.move_root."""
    store.require_write()
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder of images")
    below = os.fsencode(root)
    paths = list(_sample(store))
    there = sum(os.path.lexists(os.path.join(below, path)) for path in paths)
    if paths and not there and not force:
        example = os.fsdecode(paths[0])
        raise InputError(
            f"{root}: none of the index's images is there (looked for {len(paths):,} of {store.state().images:,}, the "
            f"first of them {example!r}): nothing was changed. Give the folder that {example!r} is below, or, if the "
            "pictures come later, say --force"
        )
    store.set_meta(root=root)
    return RootReport(there, len(paths), store.state().images)


def _sample(store: Store) -> Iterator[bytes]:
    """Paths of images, relative to the root: all, or many from all over the ids."""
    with store.read(snapshot=True) as connection:
        state = store.state()
        if state.images <= _SAMPLE:
            yield from (path for (path,) in connection.execute("SELECT path FROM images ORDER BY id"))
            return
        at = 0
        for part in range(_SAMPLE):
            at = max(at + 1, 1 + part * state.last_id // _SAMPLE)
            row = connection.execute("SELECT id, path FROM images WHERE id >= ? ORDER BY id LIMIT 1", (at,)).fetchone()
            if row is None:
                return
            at = row[0]
            yield row[1]
