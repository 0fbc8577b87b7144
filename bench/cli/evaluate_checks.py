"""What qo-eval asks of its options before it hashes anything: UsageError, or MissingError, in words of the options."""

import importlib.util
import math
import os
from typing import TYPE_CHECKING

from queryopt.errors import MissingError, UsageError
from queryopt.text import display_path, install_extra

if TYPE_CHECKING:
    from queryopt.bench.quality.evaluate import LabelledFolder, Protocol

__all__ = ["check_outputs", "check_plot", "check_protocols", "check_usage"]


def check_outputs(plot: str | None, bits: str | None, protocols: "tuple[Protocol, ...]") -> None:
    """What --plot and --bits-out need is there."""
    if plot is not None and importlib.util.find_spec("matplotlib") is None:
        raise MissingError(f"--plot needs matplotlib: {install_extra('bench')}")
    if bits is None:
        return
    if not bits.endswith((".json", ".md")):
        raise UsageError(f"--bits-out {display_path(bits)}: give a name that ends in .json or .md")
    if "deployed" not in protocols:
        raise UsageError("--bits-out looks at the model's own codes: use --protocol deployed or both")


def check_plot(path: str | None, *folders: "LabelledFolder | None") -> None:
    """A PNG may be a drawing of this command, or what it was asked to look at."""
    if path is None:
        return
    target = os.fsencode(os.path.realpath(path))
    if any(folder is not None and target in map(os.path.realpath, folder.paths) for folder in folders):
        raise UsageError(f"{display_path(path)}: is one of the pictures to measure on: give --plot another name")


def check_protocols(protocols: "tuple[Protocol, ...]", run: str | None, compare: tuple[str, ...]) -> None:
    """The paper's protocol is of a run, and of its own model."""
    if "paper" not in protocols:
        return
    if run is None:
        raise UsageError(
            "--protocol paper ranks the codes that a run solved for its training pictures, which no model and no index "
            "holds: give its folder with --run"
        )
    if compare:
        raise UsageError(
            "--protocol paper ranks the codes that belong to the run's own model: leave --compare out, or use "
            "--protocol deployed"
        )


def check_usage(
    gallery: str | None,
    index: str | None,
    queries: str | None,
    data: str | None,
    run: str | None,
    compare: tuple[str, ...],
    require_ratio: float | None,
) -> None:
    """What to search in and with is said once, and --compare and --require-ratio have something to compare."""
    if data is not None or run is not None:
        given = {"--gallery": gallery, "--index": index, "--queries": queries}
        if extra := [name for name, value in given.items() if value is not None]:
            raise UsageError(
                f"{'--data' if data is not None else '--run'} says what to search in and with: leave "
                f"{' and '.join(extra)} out"
            )
    elif queries is None:
        raise UsageError("give what to search with: --queries FOLDER, or --data or --run for a whole data set")
    elif (gallery is None) == (index is None):
        raise UsageError("give what to search in: either --gallery FOLDER or --index INDEX")
    if index is not None and compare:
        raise UsageError("an index holds the codes of one model: to --compare others, give its folder as --gallery")
    if require_ratio is not None and not compare:
        raise UsageError("--require-ratio needs a model to compare with: give it with --compare")
    if require_ratio is not None and not math.isfinite(require_ratio):
        raise UsageError(f"--require-ratio is {require_ratio}: a number above 0")
