"""The process that runs a section of qo-bench gpu: started by `queryopt.bench.speed.gpu.isolated`, and by nothing else.

The request comes in on stdin, and messages go out on what was stdout, both pickled: the log lines, the report as far as
it has come, and how it ended. Whatever libraries print goes to stderr.
"""

import faulthandler
import os
import pickle
import sys
import traceback
from typing import IO, Any

from queryopt.bench.speed.gpu.section import GpuOptions, Section, SectionReport, Turn
from queryopt.errors import MissingError, QueryOptError

__all__ = ["main", "run_section"]


def main() -> None:
    """Run the section that stdin names, to its end."""
    with os.fdopen(os.dup(1), "wb") as messages:
        os.dup2(2, 1)
        faulthandler.enable()
        section, options, seconds = pickle.load(sys.stdin.buffer)
        state, report, reason, bug = run_section(
            section, options, seconds, lambda kind, value: _send(messages, kind, value)
        )
        _send(messages, "end", (state, report, reason, bug))
        # Libraries that crash while a process ends can't change what was measured.
        messages.flush()
        os._exit(0)


def run_section(
    section: Section, options: GpuOptions, seconds: float, send: Any
) -> tuple[str, SectionReport | None, str, str]:
    """Run a section: its state, its report, the reason where it isn't done, and the traceback of a bug.

    send: takes ("log", text) and ("kept", report).
    """
    turn = Turn(seconds, lambda text: send("log", text), lambda report: send("kept", report))
    try:
        report = section.run(options, turn)
    except MissingError as error:
        return "missing", None, f"it needs {section.needs}: {error}", ""
    except QueryOptError as error:
        return "failed", None, str(error), ""
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        return "failed", None, f"{type(error).__name__}: {text}", traceback.format_exc()
    return ("cut short", report, f"without {', '.join(turn.cut)}", "") if turn.cut else ("done", report, "", "")


def _send(messages: IO[bytes], kind: str, value: object) -> None:
    pickle.dump((kind, value), messages)
    messages.flush()


if __name__ == "__main__":
    main()
