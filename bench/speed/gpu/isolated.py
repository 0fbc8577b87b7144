"""Sections in processes of their own: one that crashes or hangs loses no other's results.

Each has a share of the time that is left, so all end in time; what a section doesn't use goes to those after it.

Run as a module, this is such a process. What to run comes in on stdin, and messages go out on what was stdout, both
pickled: ("log", text), ("kept", the report as far as it has come), and ("end", the outcome, the traceback of a bug).
Whatever libraries print goes to stderr.
"""

import contextlib
import faulthandler
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Final

from queryopt.bench.speed.gpu.section import GpuOptions, Log, Outcome, Section, SectionReport, Turn
from queryopt.errors import MissingError, QueryOptError

__all__ = ["run_isolated", "run_sections"]

_SOFT: Final = 0.85
"""Of its time, what a section is told: it ends by itself before it is ended."""
_LAST_WORDS: Final = 600
"""Characters of what a crashed process said last."""
_SAID: Final = 1 << 16
"""Bytes of that which are looked at."""
_DYING: Final = 10.0
"""Seconds that a process may take from its last message to its end."""


def run_sections(
    sections: Sequence[Section], options: GpuOptions, seconds: float, log: Log = lambda message: None
) -> Iterator[Outcome]:
    """Run sections one after the other, each in a process of its own, in about `seconds` in all."""
    until = time.monotonic() + seconds
    for number, section in enumerate(sections):
        waiting = sum(other.share for other in sections[number:])
        yield run_isolated(section, options, (until - time.monotonic()) * section.share / waiting, log)


def run_isolated(section: Section, options: GpuOptions, seconds: float, log: Log = lambda message: None) -> Outcome:
    """Run a section in a process, which is ended after `seconds`; its last report is what is left then."""
    if seconds <= 0:
        return Outcome(section.name, "cut short", 0.0, None, "its time was up before it began")
    log(f"{section.name}: at most {seconds:.0f} s")
    started = time.monotonic()
    until = started + seconds
    with tempfile.TemporaryFile() as said:
        process = _start(options, said)
        patience = 0.0
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                pickle.dump((section, options, seconds * _SOFT), process.stdin)
            end, report = _listen(process.stdout, until, section.name, log)
            patience = max(0.0, min(_DYING, until - time.monotonic()))
        finally:
            _end(process, patience)
        took = time.monotonic() - started
        if end is not None:
            state, reason, last, bug = end
            if bug:
                log(bug.rstrip())
            return Outcome(section.name, state, took, last or report, reason)
        words = _last_words(said, log)
    if took >= seconds:
        return Outcome(section.name, "cut short", took, report, f"it was ended after {seconds:.0f} s")
    how = _how_it_ended(process.returncode)
    return Outcome(section.name, "failed", took, report, how + (f", and said last: {words}" if words else ""))


def _start(options: GpuOptions, said: IO[bytes]) -> "subprocess.Popen[bytes]":
    # So that what a killed process leaves behind goes with the folder.
    surroundings = os.environ | ({"TMPDIR": str(options.folder)} if options.folder.is_absolute() else {})
    if options.rehearse:  # threads of PyTorch that wait for each other gain nothing with such sizes
        surroundings |= {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        # Not -m alone: that would look for packages in the current folder first.
        [sys.executable, "-P", "-m", "queryopt.bench.speed.gpu.isolated"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        start_new_session=True,
        env=surroundings,
    )


_End = tuple[str, str, SectionReport | None, str]
"""State, reason, report, and the traceback of a bug."""


def _listen(messages: IO[bytes], until: float, name: str, log: Log) -> tuple[_End | None, SectionReport | None]:
    """What the process says, until it ends, or its time does: how it ended, and the last report before that."""
    inbox: queue.Queue[tuple[str, Any]] = queue.Queue()
    threading.Thread(target=_receive, args=(messages, inbox), daemon=True).start()
    report: SectionReport | None = None
    while True:
        try:
            kind, value = inbox.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None, report
        if kind == "log":
            log(f"{name}: {value}")
        elif kind == "kept":
            report = value
        else:
            return value, report


def _receive(messages: IO[bytes], inbox: "queue.Queue[tuple[str, Any]]") -> None:
    # A process that dies in the middle of a message leaves part of one.
    with contextlib.suppress(EOFError, OSError, ValueError, pickle.UnpicklingError):
        while True:
            inbox.put(pickle.load(messages))
    inbox.put(("end", None))


def _end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    """End a process, and all that it started: it leads a session of its own. patience: seconds to do so by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"its process ended with {status}"
    try:
        return f"its process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was ended by signal {-status}"


def _last_words(said: IO[bytes], log: Log) -> str:
    """What a crashed process said before Python wrote where it was; that goes to the log."""
    said.seek(0, os.SEEK_END)
    said.seek(max(0, said.tell() - _SAID))
    words, fatal, where = said.read().decode(errors="replace").rpartition("Fatal Python error")
    if fatal:
        log((fatal + where).rstrip())
    return " ".join((words if fatal else where).split())[-_LAST_WORDS:]


def _be_the_process() -> None:
    """Run the section that stdin names, to its end."""
    with os.fdopen(os.dup(1), "wb") as messages:
        os.dup2(2, 1)
        faulthandler.enable()
        section, options, seconds = pickle.load(sys.stdin.buffer)

        def send(kind: str, value: object) -> None:
            pickle.dump((kind, value), messages)
            messages.flush()

        send("end", _run(section, options, seconds, send))
        # Libraries that crash while a process ends can't change what was measured.
        os._exit(0)


def _run(section: Section, options: GpuOptions, seconds: float, send: Callable[[str, object], None]) -> _End:
    turn = Turn(seconds, lambda text: send("log", text), lambda report: send("kept", report))
    try:
        report = section.run(options, turn)
    except MissingError as error:
        return "missing", f"it needs {section.needs}: {error}", None, ""
    except QueryOptError as error:
        return "failed", str(error), None, ""
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        return "failed", f"{type(error).__name__}: {text}", None, traceback.format_exc()
    return ("cut short", f"without {', '.join(turn.cut)}", report, "") if turn.cut else ("done", "", report, "")


if __name__ == "__main__":
    _be_the_process()
