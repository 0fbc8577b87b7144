"""Public data sets in their official layouts on disk, without a conversion step.

A module of this package that defines DATASET, an OfficialDataset, is a data set: adding one takes that module and its
test. Nothing heavier than NumPy is imported, and torchvision only where a download is asked for.
"""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.train.datasets.attributes import CERTAINTIES, ImageAttributes, birds_attributes
    from queryopt.train.datasets.official import (
        ANY_SIZE,
        Counts,
        OfficialDataset,
        dataset_names,
        official_dataset,
    )

__all__ = [
    "ANY_SIZE",
    "CERTAINTIES",
    "Counts",
    "ImageAttributes",
    "OfficialDataset",
    "birds_attributes",
    "dataset_names",
    "official_dataset",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ANY_SIZE": "official",
        "CERTAINTIES": "attributes",
        "Counts": "official",
        "ImageAttributes": "attributes",
        "OfficialDataset": "official",
        "birds_attributes": "attributes",
        "dataset_names": "official",
        "official_dataset": "official",
    },
)
