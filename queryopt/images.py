"""Pictures: from a file to the pixels that the network gets, the same in training, export and at run time.

A picture is decoded as a person sees it: turned by its EXIF orientation, transparency on white, 16 bits scaled to 8,
CMYK, palettes and grey as RGB, the first frame of an animation. Embedded colour profiles are ignored, as torchvision
ignores them: the networks and the ImageNet weights that they start from were trained so, and a model must see at run
time what it saw in training.

Only formats of an allow-list are opened, only regular files, and only up to MAX_PIXELS. Whatever can't be read is an
ImageError whose message is a short reason for people.
"""

import errno
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.card import Preprocessing
from queryopt.errors import ImageError, InputError, UsageError
from queryopt.kinds import Kind, kind_of_head
from queryopt.text import counted, display_path, install_extra, listed, listed_paths

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FORMATS",
    "HEIF_SUFFIXES",
    "MAX_PIXELS",
    "NOT_FOLLOWED",
    "NO_HEIF",
    "SUFFIXES",
    "SYSTEM_FOLDERS",
    "ImageSource",
    "crop_box",
    "failure_lines",
    "find_images",
    "is_hidden",
    "leads_elsewhere",
    "load_image",
    "open_rgb",
    "picture_size",
    "read_bytes",
    "resize_crop",
]

ImageSource: TypeAlias = str | bytes | os.PathLike[Any] | BinaryIO
"""A path (bytes are a path as of os.fsencode, never picture data) or a binary stream."""

FORMATS = frozenset({"AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"})
"""Pillow's names of the formats that are opened. Its other decoders are old, rare or call other programs (EPS). HEIC is
opened where pillow-heif is installed.
"""

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
SUFFIXES = frozenset(
    {
        ".apng",
        ".avif",
        ".bmp",
        ".gif",
        *HEIF_SUFFIXES,
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""Endings (lower case) of the files that a folder is searched for."""

NO_HEIF = f"HEIC, which needs pillow-heif: {install_extra('heic')}"
"""Why a picture of that kind can't be read where its decoder is missing."""

MAX_PIXELS = 89_478_485
"""More are refused as a decompression bomb: 256 MiB of RGB, Pillow's own limit, where Pillow only warns."""

_MAX_SIDE = 65_535
"""Of a JPEG; a longer picture of few pixels costs memory for every row."""
_MAX_FILE = 1 << 30
"""Bytes of a file: MAX_PIXELS without compression, of 16 bits and 4 channels, have less."""
_MAX_SCANS = 500
"""Of a progressive JPEG: each one goes over all pixels. Encoders write about ten."""

SYSTEM_FOLDERS = frozenset({b"#recycle", b"$RECYCLE.BIN", b"@Recycle", b"@eaDir", b"__MACOSX", b"lost+found"})
"""Folders that are not looked into: the thumbnails and the rubbish of storage servers, desktops and archives."""

NOT_FOLLOWED = "a link to a folder that is looked through anyway, or holds this one: not followed"
"""Why find_images skips a link to a folder. Whatever else it skips, it could not read."""

_log = logging.getLogger("queryopt")


def open_rgb(source: ImageSource, at_least: int | None = None, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """Decode a picture to a Pillow image of mode RGB, 8 bits a channel, upright, as a person sees it.

    at_least: for a thumbnail: a JPEG may come at a half, a quarter or an eighth of its size, as long as neither side
    falls below so many pixels. That is several times quicker, and not what a model may be shown. max_pixels: more are
    refused before anything is decoded; at most MAX_PIXELS.

    A stream is read from its start and not closed. ImageError (the reason alone, without the file's name) for what
    can't be read: not a picture, of another format, cut off, too many pixels, not a regular file, no permission.
    """
    if isinstance(source, str | bytes | os.PathLike):
        with _open_regular(source) as file:
            return _decode(file, at_least, min(max_pixels, MAX_PIXELS))
    if not callable(getattr(source, "read", None)):
        raise UsageError(f"a picture is given as {type(source).__name__}: give a path or a binary stream")
    with _reasons():
        seekable = callable(getattr(source, "seekable", None)) and source.seekable()
        file = source if seekable else io.BytesIO(source.read())
        empty = file.seek(0, os.SEEK_END) == 0
        file.seek(0)
    if empty:
        raise ImageError("zero bytes")
    return _decode(file, at_least, min(max_pixels, MAX_PIXELS))


def failure_lines(failures: Mapping[Any, str], note: str = "") -> list[str]:
    """A line for each picture that can't be read, by its path, with the reason and a note; one for all that only lack
    a decoder.
    """
    lines = [f"{display_path(path)}: {reason}{note}" for path, reason in failures.items() if reason != NO_HEIF]
    lacking = [path for path, reason in failures.items() if reason == NO_HEIF]
    if lacking:
        kind = counted(len(lacking), "picture", "pictures")
        lines.append(f"{kind} of the kind {NO_HEIF}{note}: {listed_paths(lacking)}")
    return lines


def read_bytes(path: str | bytes | os.PathLike[Any]) -> bytes:
    """What a file holds that may be a picture. ImageError as of `open_rgb`, for all but what is inside."""
    with _reasons(), _open_regular(path) as file:
        return file.read()


def picture_size(path: str | bytes | os.PathLike[Any]) -> tuple[int, int]:
    """Width and height of a picture as `open_rgb` gives it, from the file's header alone. ImageError as there."""
    with _open_regular(path) as file, _reasons(), _opened(file, MAX_PIXELS) as image:
        turned = _orientation(image) in _LYING
        return (image.height, image.width) if turned else image.size


def resize_crop(image: "Image.Image", preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Make a picture the square that a network sees: cut out its middle, or lay all of it on a background.

    image: a Pillow image of mode RGB, of any size and shape. Returns uint8 [image_size, image_size, 3]. A crop is
    within one grey level of torchvision's Resize(resize_size) and CenterCrop(image_size) on the same image (two for, at
    most, about one value in a thousand: Pillow rounds twice, once per direction).
    """
    return _letterbox(image, preprocessing) if preprocessing.resize == "pad" else _middle(image, preprocessing)


def _letterbox(image: "Image.Image", preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The longer side resized to image_size (bilinear, antialiased), on a square of the background's colour."""
    from PIL import Image

    size = preprocessing.image_size
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size), preprocessing.background)
    shrunk = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(shrunk, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)


def _middle(image: "Image.Image", preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The shorter side resized (bilinear, antialiased) and the middle cut out, in one step."""
    from PIL import Image

    size = preprocessing.image_size
    left, top, right, bottom = crop_box(image.size, preprocessing)
    width, height = right - left, bottom - top
    # Pillow keeps the box as float32, too coarse at the middle of a very long picture: cut out the neighbourhood of the
    # crop first. The filter reaches one output pixel (or one input pixel) beyond the box; what is kept is more.
    margin_x, margin_y = (max(2, int(2 * extent / size) + 2) for extent in (width, height))
    x0, y0 = max(0, int(left) - margin_x), max(0, int(top) - margin_y)
    x1, y1 = min(image.width, int(left + width) + margin_x + 1), min(image.height, int(top + height) + margin_y + 1)
    if (x1 - x0) * (y1 - y0) < image.width * image.height // 2:
        image = image.crop((x0, y0, x1, y1))
        left, top = left - x0, top - y0
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))


def crop_box(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[float, float, float, float]:
    """What `resize_crop` shows of a picture of this (width, height): left, top, right, bottom, in its pixels.

    Of a picture that is padded it is all of it and the background: a square that begins left of, or above, pixel 0.
    """
    if preprocessing.resize == "pad":
        side = max(size)
        left, top = (size[0] - side) / 2, (size[1] - side) / 2
        return left, top, left + side, top + side
    left, width = _crop_box(size[0], min(size), preprocessing)
    top, height = _crop_box(size[1], min(size), preprocessing)
    return left, top, left + width, top + height


def load_image(source: ImageSource, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """`open_rgb` and `resize_crop`: uint8 [image_size, image_size, 3]. ImageError as there."""
    return resize_crop(open_rgb(source), preprocessing)


def find_images(
    folder: str | bytes | os.PathLike[Any],
    on_skip: Callable[[bytes, str], None] | None = None,
    on_other: Callable[[bytes], None] | None = None,
) -> list[bytes]:
    """Find the pictures in a folder and its sub-folders by their endings (SUFFIXES, in any case).

    Returns paths relative to `folder` as bytes (os.fsencode: not every name is UTF-8), sorted bytewise. Names that
    start with a dot are skipped, and the folders of SYSTEM_FOLDERS. Links to files are taken, and links to folders that
    lie elsewhere are followed, each such folder once; a link to what is looked through anyway, or back up, is skipped,
    so loops do no harm. Whatever has a picture's ending and is not a folder is returned, readable or not: reading it
    gives the reason.

    on_skip: called with the relative path and the reason for every sub-folder that can't be read and every link that is
    not followed; without it they are logged as warnings. on_other: called with the relative path of every other file
    that is not hidden. How many names were left out is logged for debugging. InputError where `folder` itself is not a
    folder or can't be read.
    """
    root = os.fsencode(folder)
    skip = on_skip or (lambda path, reason: _log.warning("%s: %s", os.fsdecode(os.path.join(root, path)), reason))
    found: list[bytes] = []
    others: Counter[str] = Counter()
    pending, regions = [b""], [os.path.realpath(root)]
    while pending:
        below = pending.pop()
        links: list[bytes] = []
        try:
            with os.scandir(os.path.join(root, below)) as entries:
                for entry in entries:
                    path = os.path.join(below, entry.name)
                    if is_hidden(entry.name):
                        others["hidden"] += 1
                    elif entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    elif _leads_to_folder(entry):
                        links.append(path)
                    elif (ending := os.path.splitext(entry.name)[1].lower()) in _SUFFIX_BYTES:
                        found.append(path)
                    else:
                        others[os.fsdecode(ending) or "without an ending"] += 1
                        if on_other is not None:
                            on_other(path)
        except OSError as error:
            if not below:
                raise InputError(f"{os.fsdecode(root)}: {_words(error)}: give a folder that can be read") from None
            skip(below, _words(error))
        for path in sorted(links):  # of two that lead to one folder, the same is followed each time
            if leads_elsewhere(link := os.path.join(root, path), regions):
                regions.append(os.path.realpath(link))
                pending.append(path)
            else:
                skip(path, NOT_FOLLOWED)
    if others:
        kinds = listed([f"{count:,} {kind}" for kind, count in sorted(others.items(), key=lambda kind: -kind[1])])
        left_out = counted(others.total(), "name", "names")
        _log.debug("%s: %s left out that no picture's is: %s", os.fsdecode(root), left_out, kinds)
    return sorted(found)


def is_hidden(name: bytes) -> bool:
    """Whether find_images passes over a file or folder of this name."""
    return name.startswith(b".") or name in SYSTEM_FOLDERS


def leads_elsewhere(link: bytes, regions: Sequence[bytes]) -> bool:
    """Whether a link leads out of the folders that are looked through (real paths, the root first), and not back up."""
    target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return not (any(_within(target, one) for one in regions) or _within(here, target) or _within(regions[0], target))


# TIFF tags
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262

_SUFFIX_BYTES = frozenset(suffix.encode() for suffix in SUFFIXES)


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _within(path: bytes, folder: bytes) -> bool:
    """Whether a real path is that of the folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _crop_box(length: int, shorter: int, preprocessing: Preprocessing) -> tuple[float, float]:
    """Where the crop begins along one side, and how much of it it takes, in pixels of the picture.

    torchvision cuts the resized length down to a whole number, and rounds the crop's offset (halves to even).
    """
    resized = int(preprocessing.resize_size * length / shorter)
    offset = round((resized - preprocessing.image_size) / 2)
    scale = length / resized
    return offset * scale, preprocessing.image_size * scale


def _open_regular(path: str | bytes | os.PathLike[Any]) -> BinaryIO:
    try:
        # Asked before it is opened: opening some devices does something. Asked again after: it may have been replaced,
        # and opening a FIFO without O_NONBLOCK waits for a writer.
        _check_regular(os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            _check_regular(status)
            if status.st_size == 0:
                raise ImageError("zero bytes")
            if status.st_size > _MAX_FILE:
                raise ImageError(f"{status.st_size / (1 << 30):,.1f} GiB: files of more than 1 GiB are not read")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise ImageError(_words(error)) from None
    except ValueError:
        raise ImageError("not a path: it holds a NUL") from None


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {
            stat.S_IFDIR: "a folder",
            stat.S_IFIFO: "a FIFO",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }
        raise ImageError(f"not a regular file ({kinds.get(stat.S_IFMT(status.st_mode), 'something else')})")


def _words(error: OSError) -> str:
    return {errno.ENOENT: "no such file or folder", errno.ELOOP: "a link that leads to itself"}.get(
        error.errno or 0, (error.strerror or str(error)).lower()
    )


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever Pillow and its libraries raise over a file into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("needs more memory than there is") from None
    except Exception as error:
        # Pillow's decoders raise nearly everything over a damaged file: OSError, SyntaxError, struct.error, zlib.error,
        # ValueError, KeyError, OverflowError, RuntimeError … and a file must never end the run of a million others.
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.errno:
            raise ImageError(_words(error)) from None
        if "truncated" in text.lower() or "end of file" in text or isinstance(error, EOFError):
            raise ImageError(f"truncated: {text}") from None
        raise ImageError(f"not a picture that can be read ({text or type(error).__name__})") from None


def _decode(file: BinaryIO, at_least: int | None, max_pixels: int) -> "Image.Image":
    with _reasons(), _opened(file, max_pixels) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        with _MEMORY.taking(image.width * image.height * _BYTES):
            image.load()
            return _to_rgb(_upright(image))


def _opened(file: BinaryIO, max_pixels: int) -> "Image.Image":
    """A picture whose header was read, and no more."""
    from PIL import Image, UnidentifiedImageError

    _quiet_pillow()
    try:
        image: Image.Image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        image = _open_heif(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"more than {MAX_PIXELS:,} pixels (a decompression bomb?)") from None
    try:
        _check_size(image, file, max_pixels)
    except BaseException:
        image.close()
        raise
    return image


def _open_heif(file: BinaryIO) -> "Image.Image":
    """A HEIC file, which Pillow alone can't decode. It comes upright, and its EXIF data as it is given then says so.

    ImageError for any other file, with what it may be.
    """
    file.seek(0)
    # The brands of ISO/IEC 23008-12 for pictures that are coded in HEVC, and the two that leave it open.
    if not re.fullmatch(rb".{4}ftyp(he[iv][cxms]|mif1|msf1)", file.read(12), re.DOTALL):
        raise ImageError(_unidentified(file))
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(NO_HEIF) from None
    file.seek(0)
    return HeifImageFile(file)  # type: ignore[no-untyped-call]


def _check_size(image: "Image.Image", file: BinaryIO, max_pixels: int) -> None:
    """ImageError for a picture whose decoding would take too much memory or time, by what its header says."""
    size = f"{image.width} x {image.height}"
    if image.width * image.height > max_pixels:
        raise ImageError(f"{size} is more than {max_pixels:,} pixels (a decompression bomb?)")
    if max(image.size) > _MAX_SIDE:
        raise ImageError(f"{size}: a side is longer than {_MAX_SIDE:,} pixels")
    if image.info.get("progressive") and (scans := _count_scans(file)) > _MAX_SCANS:
        raise ImageError(f"a JPEG of {scans:,} scans, more than {_MAX_SCANS} (a decompression bomb?)")


def _count_scans(file: BinaryIO) -> int:
    """How often a JPEG's file has the marker that a scan begins with (ITU-T T.81); in coded data it can't be."""
    at = file.tell()
    file.seek(0)
    scans, last = 0, b""
    while part := file.read(1 << 20):
        scans += (last + part).count(b"\xff\xda")
        last = part[-1:]
    file.seek(at)
    return scans


class _Memory:
    """Bytes that pictures may take together while they are decoded. One that needs all of them waits to be alone."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, size: int) -> Iterator[None]:
        size = min(size, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


_BYTES = 12
"""A pixel while it is decoded: RGBA as it was, turned or blended, and the RGB that is made of it."""
_MEMORY = _Memory(max(1 << 30, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4))


@cache
def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    # A Pillow built without some library lacks its format, and Image.open doesn't expect to be asked for that one.
    return sorted(FORMATS & set(Image.OPEN))


def _quiet_pillow() -> None:
    """Silence what Pillow warns of over a file: it is read all the same, or refused here with a reason.

    Appended, so that whoever made such a warning an error still gets that; then it is the picture's reason.
    catch_warnings would be narrower, but it changes the filters of all threads and is not safe among them.
    """
    from PIL import Image

    for warning, module in ((Image.DecompressionBombWarning, ""), (UserWarning, r"PIL\.")):
        if ("ignore", None, warning, re.compile(module) if module else None, 0) not in warnings.filters:
            warnings.filterwarnings("ignore", category=warning, module=module, append=True)


def _unidentified(file: BinaryIO) -> str:
    file.seek(0)
    start = file.read(512)
    if start[:4] == b"%PDF":
        kind = "PDF"
    elif start and all(32 <= byte != 127 or byte in b"\t\n\r\f" for byte in start):
        kind = "text"
    elif start and not any(start):
        kind = "only zero bytes"
    elif start[:3] == b"\xff\xd8\xff" or start[:8] == b"\x89PNG\r\n\x1a\n":
        kind = "its header is cut off or damaged"
    else:
        found = kind_of_head(start)
        kind = "an unknown format" if found in (None, Kind.PICTURE) else f"it is {found.called}"
    return f"not a picture that can be read ({kind})"


_LYING = frozenset({5, 6, 7, 8})
"""Orientations of EXIF that exchange width and height."""


def _orientation(image: "Image.Image") -> int:
    """By EXIF, 1 to 8."""
    from PIL import ExifTags

    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Damaged EXIF data (common after careless editing) says nothing about the pixels.
        return 1
    return orientation if isinstance(orientation, int) else 1


def _upright(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(_orientation(image))
    if method is None:
        return image
    turned = image.transpose(method)
    turned.info = dict(image.info)
    return turned


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return _scaled_grey(image)
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(layers, mask=layers.getchannel("A"))
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled_grey(image: "Image.Image") -> "Image.Image":
    """Grey of more than 8 bits, scaled to 8 by its format's largest value (Pillow's convert would clip it)."""
    from PIL import Image

    if image.mode == "F":
        raise ImageError("floating-point pixels: nothing says what is white; convert it to 8 or 16 bits")
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    depth = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    largest = (1 << depth) - 1
    if depth > 16 or values.min() < 0 or values.max() > largest:
        raise ImageError(
            f"grey values from {values.min()} to {values.max()}: nothing says what is white; convert it to 8 or 16 bits"
        )
    grey = np.empty(values.shape, np.uint8)
    step = max(1, (1 << 20) // values.shape[1])
    for at in range(0, len(values), step):  # in parts: whole, this would take several times the picture's memory
        grey[at : at + step] = (values[at : at + step].astype(np.int32) * 255 + largest // 2) // largest
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero: Pillow heeds that up to 8 bits only
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
