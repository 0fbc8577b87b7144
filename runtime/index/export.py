"""Write the codes of an index to a file for other programs."""

from itertools import islice
from pathlib import Path

import numpy as np

from queryopt.progress import Progress, no_progress
from queryopt.runtime.index.store import Store
from queryopt.runtime.outputs import CodeRows, writing_codes

__all__ = ["export"]

_ROWS = 8192


def export(store: Store, path: Path, progress: Progress | None) -> int:
    """See HashIndex.export."""
    images = store.images()
    done = 0
    with (
        writing_codes(path, store.card, with_ids=True) as write,
        (progress or no_progress)("export", store.state().images) as advance,
    ):
        while page := list(islice(images, _ROWS)):
            write(
                CodeRows(
                    [image.relative for image in page],
                    np.stack([image.code for image in page]),
                    np.stack([image.margins for image in page]),
                    [image.label for image in page],
                    np.array([image.id for image in page], np.int64),
                )
            )
            done += len(page)
            advance(len(page))
    return done
