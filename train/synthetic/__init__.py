"""Data sets that are drawn, not downloaded: their classes' attributes are known. Needs NumPy and Pillow alone."""

from queryopt.train.synthetic.attributes import ATTRIBUTES
from queryopt.train.synthetic.birds import (
    BirdsConfig,
    Generated,
    absolute_data,
    generate,
    load_attributes,
    resolve_data,
)
from queryopt.train.synthetic.sheet import contact_sheet

__all__ = [
    "ATTRIBUTES",
    "BirdsConfig",
    "Generated",
    "absolute_data",
    "contact_sheet",
    "generate",
    "load_attributes",
    "resolve_data",
]
