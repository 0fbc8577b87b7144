"""qo-infer --watch: what it says while it goes on."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from queryopt.cli import Output
from queryopt.errors import ExitCode
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.watch import FolderWatch, WatchEvent

__all__ = ["watch_folder"]


def watch_folder(watching: "FolderWatch", out: Output) -> ExitCode:
    """Watch until Ctrl-C or SIGTERM, and say what happens, with --json a line of JSON each."""
    index = watching.index
    total = {"hashed": 0, "updated": 0, "removed": 0, "stale": 0}
    failed: dict[str, str] = {}
    with _terminable():
        try:
            for event in watching.run():
                if event.report is not None:
                    total["hashed"] += event.report.hashed
                    total["updated"] += event.report.updated
                    total["removed"] += event.report.removed
                    total["stale"] += len(event.report.stale) + len(event.report.vanished)
                    failed |= dict(event.report.failed)
                _say(event, index, out)
        except KeyboardInterrupt:
            pass
    out.line({"event": "stopped", "time": _now(), "images": len(index)} | total | {"failed": failed})
    out.print(
        f"stopped: {total['hashed']:,} hashed, {total['updated']:,} updated, {total['removed']:,} removed, "
        f"{len(failed):,} failed; index: {display_path(index.path)} ({counted(len(index), 'picture', 'pictures')})"
    )
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _say(event: "WatchEvent", index: "HashIndex", out: Output) -> None:
    # Warnings first: whoever reads the line of JSON may end this process at once.
    root = display_path(index.root)
    values: dict[str, Any] = {"event": event.kind, "time": _now(), "images": len(index)}
    if event.report is None:
        if event.kind == "gone":
            out.warn(f"{root}: the folder is not there: nothing is changed; waiting for it to come back")
        else:
            out.log(f"{root}: the folder is there again")
        out.line(values | {"folder": str(index.root)})
        return
    from queryopt.images import failure_lines

    report = event.report
    for line in (*failure_lines(report.failed), *failure_lines(report.stale, "; its code of before is kept")):
        out.warn(line)
    if event.refused:
        out.warn(event.refused)
    out.line(
        values
        | {
            "hashed": report.hashed,
            "updated": report.updated,
            "removed": report.removed,
            "vanished": list(report.vanished),
            "failed": dict(report.failed),
            "stale": dict(report.stale),
            "refused": event.refused or None,
        }
    )
    parts = [f"{report.hashed:,} hashed", f"{report.updated:,} updated"]
    parts += [f"{report.removed:,} removed"] if report.removed else []
    parts += [f"{len(report.vanished):,} gone, marked stale"] if report.vanished else []
    watching = f"; watching {root}, Ctrl-C ends it" if event.kind == "started" else ""
    out.print(f"{', '.join(parts)}: {counted(len(index), 'picture', 'pictures')} in the index{watching}")
    sys.stdout.flush()  # whoever reads a pipe reads along


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
