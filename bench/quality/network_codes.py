"""Codes of labelled pictures straight from a trained network: what its export gives, where there is none yet."""

import os

import numpy as np
import numpy.typing as npt
import torch

from queryopt.bench.quality.evaluate import LabelledCodes, labelled_pictures
from queryopt.card import Preprocessing
from queryopt.codes import pack_codes
from queryopt.progress import Advance
from queryopt.train.data import LabelledImages
from queryopt.train.hash_network import HashNetwork
from queryopt.train.inputs import to_input
from queryopt.train.pictures import PictureSource
from queryopt.train.threads import torch_threads

__all__ = ["hash_network"]

_BATCH = 64


def hash_network(
    network: HashNetwork, images: LabelledImages, threads: int | None, advance: Advance, batch: int = _BATCH
) -> LabelledCodes:
    """Codes and logits of these pictures, on the device that the network is on; what can't be read is left out and
    named. network: in eval mode. advance: called with the number of pictures done. DataError where none can be read.
    """
    preprocessing = Preprocessing.for_size(network.config.image_size)
    device = network.head.weight.device
    source = PictureSource(images, preprocessing, threads=threads)
    index = np.arange(len(images))
    batches = [index[start : start + batch] for start in range(0, len(index), batch)]
    logits: list[npt.NDArray[np.float32]] = []
    kept: list[npt.NDArray[np.bool_]] = []
    with torch_threads(threads):
        try:
            with torch.inference_mode():
                for part in source.plain_batches(batches):
                    kept.append(part.kept)
                    if part.kept.any():
                        pictures = to_input(part.pictures, preprocessing, device, False)
                        logits.append(network(pictures, branches=1).cpu().numpy())
                    advance(len(part.kept))
        finally:
            source.close()
    rows = np.flatnonzero(np.concatenate(kept))
    values = np.concatenate(logits)
    folder = labelled_pictures(images)
    return LabelledCodes(
        network.config.bits,
        pack_codes(values >= 0),
        np.array(folder.labels, dtype=np.str_)[rows],
        tuple(folder.paths[row] for row in rows.tolist()),
        {os.path.join(folder.root, os.fsencode(path)): reason for path, reason in source.failures.items()},
        values,
    )
