"""What a measurement ran on and what else the machine was doing: the head of every benchmark's report."""

import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import queryopt
from queryopt.cores import usable_cores

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Head", "Report", "available_memory", "describe_machine", "load_average", "loaded_versions", "take_head"]

_PACKAGES = ("numpy", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Head:
    """What belongs to all figures of one measurement.

    machine: processor, usable cores and operating system.
    load: load averages before and after; None where the system doesn't say.
    versions: of Python, queryopt, and the packages that took part.
    date: when it ended.
    command: how it was started, as it would be typed.
    """

    machine: str
    load: tuple[float, float] | None
    versions: Mapping[str, str]
    date: str
    command: str

    @property
    def text(self) -> str:
        """Machine, date and load, for people: two lines."""
        load = "" if self.load is None else f"; load average {self.load[0]:.2f} before, {self.load[1]:.2f} after"
        return f"{self.machine}\n{self.date}{load}"

    def to_dict(self) -> dict[str, Any]:
        """The keys `machine`, `load`, `versions`, `date` and `command`, which stand at the top of a report's JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Report:
    """What a benchmark found, under its head. values: ready for JSON. parts: text and tables, for people."""

    head: Head
    values: dict[str, Any]
    parts: Sequence["RenderableType"]

    def to_dict(self) -> dict[str, Any]:
        return self.head.to_dict() | self.values

    def render(self) -> "Iterator[RenderableType]":
        yield from self.parts


def take_head(load_before: float | None, versions: Mapping[str, str] | None = None) -> Head:
    """The head of a measurement that is at its end.

    load_before: `load_average` before its first round. versions: of what took part; by default `loaded_versions`.
    """
    after = load_average()
    return Head(
        machine=describe_machine(),
        load=None if load_before is None or after is None else (load_before, after),
        versions=loaded_versions() if versions is None else versions,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def loaded_versions() -> dict[str, str]:
    """Of Python, queryopt and the packages that are imported by now, and so took part."""
    versions = {name: str(sys.modules[name].__version__) for name in _PACKAGES if name in sys.modules}
    return {"python": platform.python_version(), "queryopt": queryopt.__version__, **versions}


def describe_machine() -> str:
    """Processor, usable cores and operating system, in one line."""
    return f"{_processor()}, {usable_cores()} usable cores, {platform.platform()}"


def load_average() -> float | None:
    """Programs that ran or waited for a core, averaged over the last minute; None where the system doesn't say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def available_memory() -> int | None:
    """Bytes that programs can still get without swapping; None where the system doesn't say."""
    text = _field("/proc/meminfo", "MemAvailable")
    return None if text is None else int(text.split()[0]) * 1024


def _processor() -> str:
    return _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _field(path: str, name: str) -> str | None:
    """The first value of a name in one of Linux's lists of `name: value`; None where there is none."""
    try:
        for line in Path(path).read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return None
