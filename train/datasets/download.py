"""Downloads by torchvision, which knows where two of the data sets lie and how to extract them."""

import contextlib
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from queryopt.cli import display_path
from queryopt.errors import DataError, MissingError

__all__ = ["download_with_torchvision"]


def download_with_torchvision(class_name: str, root: Path) -> None:
    """Have `torchvision.datasets.<class_name>` download and extract its data set into `root`.

    MissingError where torchvision is not installed, or the server or the network can't be reached; DataError for an
    archive that is damaged.
    """
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingError(
            "--download needs torchvision, which is not installed: pip install 'queryopt[train]'"
        ) from None
    fetch: Callable[..., object] = getattr(datasets, class_name)
    archive = display_path(root / os.path.basename(getattr(fetch, "_URL", "")))
    try:
        # What it prints is no result of ours.
        with contextlib.redirect_stdout(sys.stderr):
            fetch(root, download=True)
    except (EOFError, tarfile.TarError) as error:
        # It takes an archive that is there for a whole one.
        raise DataError(f"{archive}: cut off or damaged ({error}): remove it and download again") from None
    except OSError as error:
        if isinstance(getattr(error, "filename", None), str) and error.errno is not None:
            raise  # of a file here: a full disk, a folder that can't be written
        raise MissingError(_no_network(class_name, fetch, root, error)) from None
    except RuntimeError as error:  # another checksum, or nothing of the kind in the archive
        raise DataError(f"{archive}: not the data set's archive ({error}): remove it and download again") from None


def _no_network(class_name: str, fetch: object, root: Path, error: OSError) -> str:
    url = getattr(fetch, "_URL", "its server")
    return (
        f"can't download {class_name} from {url} ({getattr(error, 'reason', None) or error}): fetch that file where "
        f"there is a network, extract it into {display_path(root)}, and leave --download out"
    )
