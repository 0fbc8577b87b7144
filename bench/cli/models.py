"""Models of the command line: FILE[@BACKEND]."""

from pathlib import Path

from queryopt.cli import display_path

__all__ = ["parse_model"]


def parse_model(text: str) -> tuple[Path, str, str | None]:
    """A model's path, its name, and what is to run it (None: not said), of FILE[@BACKEND]."""
    file, at, backend = text.rpartition("@")
    if not at or Path(text).exists():
        return Path(text), display_path(text), None
    return Path(file), display_path(file), backend
