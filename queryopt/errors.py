"""Everything that can go wrong for a user, and the exit code of each.

A message says what is wrong, where, and how to mend it.

    QueryOptError                 base of all of these
    ├── UsageError                an argument or option is wrong                                        exit 2
    │   └── MismatchError         two things that don't belong together (bits, fingerprint)             exit 2
    ├── InputError                nothing usable in what was given                                      exit 3
    │   ├── ImageError            a file is not a picture that can be read
    │   ├── DataError             a data set is not laid out, or not labelled, as it must be
    │   └── FormatError           a file is not what it claims to be: cut off, foreign, damaged, newer
    │       ├── CheckpointError   a training checkpoint
    │       ├── ModelError        a model.onnx or model.plan
    │       └── IndexFileError    an index.db
    ├── TrainingError             training can't go on (the loss is not finite)                         exit 3
    ├── MissingError              a device or package that is needed is not there                       exit 4
    │   └── DeviceMemoryError     a GPU has not so much memory free                                     exit 4
    └── ParityError               the exported model's codes differ too much from the network's         exit 5
"""

from enum import IntEnum
from typing import ClassVar

__all__ = [
    "CheckpointError",
    "DataError",
    "DeviceMemoryError",
    "ExitCode",
    "FormatError",
    "ImageError",
    "IndexFileError",
    "InputError",
    "MismatchError",
    "MissingError",
    "ModelError",
    "ParityError",
    "QueryOptError",
    "TrainingError",
    "UsageError",
]


class ExitCode(IntEnum):
    """What a command's exit status means."""

    DONE = 0
    SOME_FAILED = 1
    """Done, but some items failed; each is named with its reason."""
    USAGE = 2
    INPUT = 3
    """Nothing usable in the input."""
    MISSING = 4
    """A needed device or package is not there."""
    PARITY = 5
    """Refused by the parity gate."""
    BUG = 70
    """A fault of queryopt itself; its traceback is printed."""
    INTERRUPTED = 130
    """Ctrl-C; what was committed is kept."""


class QueryOptError(Exception):
    """Base of every error that queryopt raises on purpose; `exit_code` is what a command ends with."""

    exit_code: ClassVar[ExitCode] = ExitCode.INPUT


class UsageError(QueryOptError):
    """An argument or option is wrong."""

    exit_code = ExitCode.USAGE


class MismatchError(UsageError):
    """Two things that don't belong together: other code lengths, codes of another model."""


class InputError(QueryOptError):
    """Nothing usable in what was given."""


class ImageError(InputError):
    """A file is not a picture that can be read. The message is the reason alone, without the file's name."""


class DataError(InputError):
    """A data set is not laid out, or not labelled, as it must be."""


class FormatError(InputError):
    """A file is not what it claims to be: cut off, foreign, damaged, or of a newer format."""


class CheckpointError(FormatError):
    """A training checkpoint can't be used."""


class ModelError(FormatError):
    """A model.onnx or model.plan can't be used."""


class IndexFileError(FormatError):
    """An index.db can't be used."""


class TrainingError(QueryOptError):
    """Training can't go on."""


class MissingError(QueryOptError):
    """A needed device or package is not there; the message says what to install."""

    exit_code = ExitCode.MISSING


class DeviceMemoryError(MissingError):
    """A GPU has not so much memory free."""


class ParityError(QueryOptError):
    """The exported model's codes differ from the network's by more than the limit."""

    exit_code = ExitCode.PARITY
