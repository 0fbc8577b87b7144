"""An index of any size for measurements: codes that cluster as those of pictures do, and no pictures."""

from pathlib import Path

import numpy as np

from queryopt.card import ModelCard
from queryopt.codes import pack_codes
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.meta import Meta
from queryopt.runtime.index.rows import Row, encode_margins
from queryopt.runtime.index.store import Store

__all__ = ["generate_index"]

_A_CLASS = 50
"""Pictures around one centre."""
_PART = 50_000


def generate_index(path: Path, card: ModelCard, images: int, seed: int = 0) -> None:
    """Write an index of `images` rows with the card of a model. Their files are named, and not there.

    Each logit is that of the row's class, one of images / 50 drawn at random, and normal noise half as large.
    """
    bits, rng = card.bits, np.random.default_rng(seed)
    classes = max(1, images // _A_CLASS)
    centres = rng.normal(size=(classes, bits)).astype(np.float32)
    Store.create(path, Meta(card, path.parent, None, (card.precision,)))
    store = Store.open(path, readonly=False, timeout=30)
    try:
        for first in range(0, images, _PART):
            of = rng.integers(0, classes, min(_PART, images - first))
            logits = centres[of] + 0.5 * rng.normal(size=(len(of), bits)).astype(np.float32)
            logits = np.clip(logits * (card.logit_scale / 4), -card.logit_scale, card.logit_scale)
            codes = pack_codes(logits >= 0)
            margins = encode_margins(codes, logits, bits, card.logit_scale)
            with store.change() as changes:
                changes.put(
                    Row(b"%d/%d.jpg" % (kind, first + i), 1, 1, codes[i].tobytes(), margins[i].tobytes(), b"%d" % kind)
                    for i, kind in enumerate(of.tolist())
                )
    finally:
        store.close()
    with HashIndex.open(path, readonly=True) as index:
        assert len(index) == images
