"""Downloads by torchvision, which knows where two of the data sets lie and how to extract them."""

import contextlib
import gzip
import http.client
import shutil
import sys
import tarfile
import urllib.error
import zlib
from collections.abc import Callable
from pathlib import Path

from queryopt.errors import DataError, MissingError
from queryopt.text import display_path, install_extra

__all__ = ["download_with_torchvision"]


def download_with_torchvision(class_name: str, root: Path, folder: str) -> None:
    """Have `torchvision.datasets.<class_name>` download and extract its data set into `root`, as `folder`.

    What a download that failed left behind is removed, for torchvision would take it for the whole. MissingError where
    torchvision is not installed, or the server or the network can't be reached; DataError for an archive that is
    damaged.
    """
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingError(f"--download needs torchvision, which is not installed: {install_extra('train')}") from None
    fetch: Callable[..., object] = getattr(datasets, class_name)
    url: str = getattr(fetch, "_URL", "")
    archive = root / url.rpartition("/")[2]
    had_archive, had_folder = archive.exists(), (root / folder).exists()
    try:
        # What it prints is no result of ours.
        with contextlib.redirect_stdout(sys.stderr):
            fetch(root, download=True)
        return
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, RecursionError, TimeoutError) as error:
        failure: MissingError | DataError = MissingError(
            f"can't download {class_name} from {url} ({getattr(error, 'reason', None) or error}): fetch that file "
            f"where there is a network, extract it into {display_path(root)}, and leave --download out"
        )
    # Cut off, or (RuntimeError) of another checksum or holding something else.
    except (EOFError, RuntimeError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        mend = "remove it and download again" if had_archive else "download it again"
        failure = DataError(f"{display_path(archive)}: damaged, or not the data set's archive ({error}): {mend}")
    if not had_archive:
        archive.unlink(missing_ok=True)
    if not had_folder:
        shutil.rmtree(root / folder, ignore_errors=True)
    raise failure
