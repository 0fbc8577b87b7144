"""The generated data set: birds whose classes are combinations of known visual attributes.

    <folder>/birds.json                        what the set was made from
    <folder>/attributes.csv                    class, then one column an attribute; the words of ATTRIBUTES
    <folder>/{train,test}/<class>/000.jpg …    JPEG of quality 92, full colour resolution

A class is a folder such as `007.crested_blue_red_capped_yellow_breasted`. A picture depends on the seed, its class, its
part and its number alone, so a larger set holds a smaller one of the same seed.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from queryopt.errors import DataError, UsageError
from queryopt.progress import Progress, no_progress
from queryopt.text import did_you_mean, display_path, parse_json
from queryopt.train.draws import Stream, sample_rng
from queryopt.train.synthetic.attributes import ATTRIBUTES, MAX_CLASSES, Bird, choose_classes, class_name

__all__ = ["PREFIX", "BirdsConfig", "Generated", "absolute_data", "generate", "load_attributes", "resolve_data"]

PREFIX = "synthetic:"
"""What `resolve_data` knows a generated data set by."""

_VERSION = 1
"""Of the pictures. A change that draws other pictures from an equal configuration counts it up."""
_QUALITY = 92
_CONFIG = "birds.json"
_ATTRIBUTES = "attributes.csv"
_LIMITS = {
    "classes": (2, MAX_CLASSES),
    "train": (1, 10_000),
    "test": (0, 10_000),
    "size": (16, 512),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class BirdsConfig:
    """What a set is made from: classes, pictures of each in train/ and test/, their width and height, and the seed.

    UsageError for a number out of range.
    """

    classes: int = 32
    train: int = 30
    test: int = 10
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"{PREFIX}birds: {name} is {value!r}: a whole number from {low} to {high} is needed")

    @property
    def name(self) -> str:
        """A folder's name that tells sets apart."""
        return f"birds-{self.classes}x{self.train}+{self.test}-{self.size}px-seed{self.seed}"


@dataclass(frozen=True)
class Generated:
    """Where a set is, and what was done: pictures drawn now, and pictures that were there."""

    folder: Path
    made: int
    kept: int


def generate(
    folder: str | os.PathLike[str],
    classes: int = 32,
    train_per_class: int = 30,
    test_per_class: int = 10,
    size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generated:
    """Make the set in `folder`, or what is missing of it.

    A file appears under its name when it is whole, so a run that was killed is completed by the next one, and a
    finished set is left as it is. Two at once on one folder take turns. DataError where the folder holds something
    else: a set of another configuration, or files of somebody's.
    """
    config = BirdsConfig(classes, train_per_class, test_per_class, size, seed)
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataError(f"{display_path(root)}: not a folder; name one for the generated data set") from None
    with _locked(root):
        _claim(root, config)
        birds = choose_classes(classes, seed)
        _write(root / _ATTRIBUTES, _attributes_csv(birds))
        missing = list(_missing(root, config, birds))
        if missing:
            with (progress or no_progress)("drawing birds", len(missing), "images") as advance:
                for part, label, number, path in missing:
                    _write(path, _picture(birds[label], config, part, label, number))
                    advance()
    return Generated(root, len(missing), classes * (train_per_class + test_per_class) - len(missing))


def resolve_data(
    text: str | os.PathLike[str], cache_dir: str | os.PathLike[str] = ".", progress: Progress | None = None
) -> Path:
    """The folder of a data set: a path as it is, or a set that is generated now if it is not there yet.

    `synthetic:birds`, or with options `synthetic:birds?classes=32&train=30&test=10&size=64&seed=0` (the fields of
    BirdsConfig). It lies in `cache_dir` under BirdsConfig.name, or where the option `folder=…` says.
    UsageError for a wrong name or value; DataError for a folder that isn't there.
    """
    text = os.fspath(text)
    scheme, _, rest = text.partition(":")
    if f"{scheme}:" == PREFIX:
        config, where = _parse(rest)
        root = Path(cache_dir, config.name) if where is None else Path(where)
        return generate(root, config.classes, config.train, config.test, config.size, config.seed, progress).folder
    path = Path(text)
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        near = did_you_mean(text, [f"{PREFIX}birds"])
        raise DataError(f"{display_path(text)}: {what}; give a folder with one sub-folder a class{near}")
    return path


def absolute_data(text: str | os.PathLike[str], cache_dir: str | os.PathLike[str] = ".") -> str:
    """What `resolve_data` takes, put so that it means the same data set in every working directory.

    A path becomes absolute; of a generated set, the folder and all numbers are written out. UsageError for a wrong name
    or value.
    """
    text = os.fspath(text)
    if not text.startswith(PREFIX):
        return os.path.abspath(text)
    config, where = _parse(text.removeprefix(PREFIX))
    folder = os.path.abspath(where or Path(cache_dir, config.name))
    options = {**asdict(config), "folder": folder}
    return f"{PREFIX}birds?{urlencode(options, safe='/', quote_via=quote, errors='surrogateescape')}"


def load_attributes(folder: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """Read a set's attributes.csv: class -> attribute -> value. DataError where it is missing or damaged."""
    path = Path(folder, _ATTRIBUTES)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{display_path(path)}: {getattr(error, 'strerror', None) or error}; generate the set again"
        ) from None
    for line, row in enumerate(rows, 2):
        if "class" not in row or None in row or None in row.values():
            raise DataError(
                f"{display_path(path)}, line {line}: a class and a value for each attribute are needed; "
                "generate the set again"
            )
    return {row["class"]: {name: value for name, value in row.items() if name != "class"} for row in rows}


def _parse(rest: str) -> tuple[BirdsConfig, str | None]:
    name, _, query = rest.partition("?")
    if name != "birds":
        raise UsageError(
            f"{PREFIX}{name}: no such generated data set; there is {PREFIX}birds{did_you_mean(name, ['birds'])}"
        )
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="surrogateescape") if query else []
    except ValueError:
        raise UsageError(f"{PREFIX}{rest}: options are written name=value, joined by &") from None
    known = [field.name for field in fields(BirdsConfig)]
    options: dict[str, int] = {}
    where: str | None = None
    for key, value in pairs:
        if key in options or (key == "folder" and where is not None):
            raise UsageError(f"{PREFIX}birds: the option {key} is given twice")
        if key == "folder" and value:
            where = value
        elif key in known and value.isascii() and value.isdigit():
            options[key] = int(value)
        elif key in known or key == "folder":
            raise UsageError(
                f"{PREFIX}birds: {key}={value}: {'a path' if key == 'folder' else 'a whole number'} is needed"
            )
        else:
            options_there = ", ".join([*known, "folder"])
            raise UsageError(
                f"{PREFIX}birds: no option {key}; there are {options_there}{did_you_mean(key, [*known, 'folder'])}"
            )
    return BirdsConfig(**options), where


def _claim(root: Path, config: BirdsConfig) -> None:
    """See that the folder is this set's own, or empty: then it is from now on."""
    path = root / _CONFIG
    wanted = {"generator": f"{PREFIX}birds", "version": _VERSION, **asdict(config)}
    try:
        found = parse_json(path.read_bytes())
    except FileNotFoundError:
        others = sorted(name for name in os.listdir(root) if not name.startswith("."))
        if others:
            raise DataError(
                f"{display_path(root)}: not empty, and no {_CONFIG} in it (there is {display_path(others[0])}): "
                "name a new or an empty folder for the generated data set"
            ) from None
        _write(path, json.dumps(wanted, indent=2).encode() + b"\n")
        return
    except ValueError:
        raise DataError(f"{display_path(path)}: damaged; remove the folder, or name another one") from None
    if found != wanted:
        differs = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
        was = ", ".join(f"{key}={found.get(key) if isinstance(found, dict) else None}" for key in differs)
        now = ", ".join(f"{key}={wanted[key]}" for key in differs)
        raise DataError(
            f"{display_path(root)}: holds another generated data set ({was}, asked for: {now}); "
            "remove the folder, or name another one"
        )


def _missing(
    root: Path, config: BirdsConfig, birds: tuple[dict[str, str], ...]
) -> Iterator[tuple[int, int, int, Path]]:
    """(part, label, number, path) of every picture that isn't there; makes the folders."""
    for part, (name, count) in enumerate((("train", config.train), ("test", config.test))):
        for label, bird in enumerate(birds if count else ()):
            folder = root / name / class_name(label, bird)
            folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(folder) as entries:
                # After a power failure a file may be there and empty.
                there = {entry.name for entry in entries if entry.stat().st_size > 0}
            for number in range(count):
                if (file := f"{number:03d}.jpg") not in there:
                    yield part, label, number, folder / file


def _picture(bird: Bird, config: BirdsConfig, part: int, label: int, number: int) -> bytes:
    from queryopt.train.synthetic.picture import draw_bird

    rng = sample_rng(config.seed, label, part, number, Stream.BIRD_PICTURES)
    data = io.BytesIO()
    draw_bird(bird, config.size, rng).save(data, "JPEG", quality=_QUALITY, subsampling=0)
    return data.getvalue()


def _attributes_csv(birds: tuple[dict[str, str], ...]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", *ATTRIBUTES])
    writer.writerows([class_name(label, bird), *bird.values()] for label, bird in enumerate(birds))
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all.

    Not `replacing`: the folder is locked, so a temporary name can be used again and a killed run leaves nothing over;
    and waiting for the disk after each of thousands of pictures that can be drawn again would take minutes.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process generates here. The lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
