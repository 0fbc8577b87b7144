"""The kernels' source file."""

from pathlib import Path
from typing import Final

from queryopt.runtime.cuda.base import Program

__all__ = ["PROGRAM"]

PROGRAM: Final = Program(
    Path(__file__).with_name("hamming.cu"),
    (
        "nearest_seed_32",
        "nearest_seed_64",
        "nearest_scan_32",
        "nearest_scan_64",
        "nearest_select",
        "radius_count_32",
        "radius_count_64",
        "radius_offsets",
        "radius_fill_32",
        "radius_fill_64",
    ),
)
"""hamming.cu: _32 for codes up to 32 bits, _64 for longer ones."""
