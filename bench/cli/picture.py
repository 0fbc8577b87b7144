"""The option --png of benchmarks that draw what they measured."""

from pathlib import Path

from queryopt.errors import MissingError, UsageError
from queryopt.text import display_path, install_extra

__all__ = ["check_picture"]


def check_picture(picture: Path) -> None:
    """Say before the measurement, not after it, that no picture can be drawn: MissingError or UsageError."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingError(f"--png needs matplotlib: {install_extra('bench')}") from None
    if not picture.parent.is_dir():
        raise UsageError(f"--png: there is no folder {display_path(picture.parent)}")
