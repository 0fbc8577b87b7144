"""What a measurement ran on, in words, and what else the machine was doing."""

import os
import platform
from pathlib import Path

from queryopt.cores import usable_cores

__all__ = ["available_memory", "describe_machine", "load_average"]


def describe_machine() -> str:
    """Processor, usable cores and operating system, in one line."""
    return f"{_processor()}, {usable_cores()} usable cores, {platform.platform()}"


def load_average() -> float | None:
    """Programs that ran or waited for a core, averaged over the last minute; None where the system doesn't say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def available_memory() -> int | None:
    """Bytes that programs can still get without swapping; None where the system doesn't say."""
    try:
        for line in Path("/proc/meminfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
