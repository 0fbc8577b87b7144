"""`qo-infer`: hash the pictures of a folder."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.cli import Command, Output, common_options, option_group
from queryopt.errors import ExitCode, InputError, UsageError
from queryopt.kinds import near
from queryopt.runtime.cli.fit import FitOptions, fit_options, model_for
from queryopt.runtime.cli.options import HasherOptions, hasher_options, model_option
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from queryopt.labels import LabelRule
    from queryopt.runtime.hasher import Hasher
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.outputs import Write

__all__ = ["main"]


@dataclass
class _Summary:
    """What was done; paths are absolute, as str."""

    folder: str
    model: str
    backend: str
    index: str | None = None
    out: str | None = None
    hashed: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    relabelled: int = 0
    images: int | None = None
    """In the index now."""
    failed: dict[str, str] = field(default_factory=dict)
    stale: dict[str, str] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    precisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What is wrong with the codes of the whole index."""
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Pictures that went through the model."""
        return self.hashed + self.updated

    @property
    def bad(self) -> int:
        """Pictures and folders that could not be read."""
        return len(self.failed) + len(self.stale)


@dataclass(frozen=True)
class TargetOptions:
    """Where codes go: into an index, unless no_index, and to a file of out_path, where one is given."""

    index_path: Path | None
    no_index: bool
    out_path: Path | None
    label_depth: int | None

    @property
    def index(self) -> Path:
        return self.index_path or Path("photos.db")


_target_options = option_group(
    "target",
    TargetOptions,
    click.option("--index", "index_path", type=click.Path(path_type=Path), help="The index.  [default: ./photos.db]"),
    click.option("--no-index", is_flag=True, help="Keep no index; with --out."),
    click.option("--out", "out_path", type=click.Path(path_type=Path), help="Write the codes: .npz, .csv or .parquet."),
    click.option(
        "--label-depth",
        type=click.IntRange(1),
        help="How many folders below FOLDER are a picture's label.  [default: the index's, else the model's]",
    ),
)


@dataclass(frozen=True)
class KeepingOptions:
    """How an index is kept up to date: see HashIndex.update, and with `watch` FolderWatch."""

    prune: bool
    force: bool
    watch: bool
    settle: float


_keeping_options = option_group(
    "keeping",
    KeepingOptions,
    click.option("--prune", is_flag=True, help="Remove pictures from the index whose files are gone."),
    click.option("--force", is_flag=True, help="With --prune: also where more than half of them are gone."),
    click.option("--watch", is_flag=True, help="Go on: keep the index up to date until Ctrl-C or SIGTERM."),
    click.option(
        "--settle",
        type=click.FloatRange(0.05, 3600),
        default=1.0,
        show_default=True,
        help="With --watch: seconds that a file has to be left alone before it is hashed.",
    ),
)


@click.command(cls=Command, name="qo-infer")
@click.argument("folder", type=click.Path(path_type=Path))
@model_option(
    "model.onnx or model.plan.  [default: $QUERYOPT_MODEL, else the index's own, else one here, else the newest run's]"
)
@fit_options
@click.option(
    "--rebuild", is_flag=True, help="Where a model.plan doesn't fit here, build it again from the model.onnx beside it."
)
@_target_options
@_keeping_options
@hasher_options(batch=32)
@common_options
def main(
    folder: Path,
    fit: FitOptions,
    rebuild: bool,
    target: TargetOptions,
    keeping: KeepingOptions,
    hashing: HasherOptions,
    out: Output,
) -> ExitCode:
    """Hash the pictures of FOLDER and its sub-folders into an index.

    \b
    Examples:
      qo-infer photos/
      qo-infer photos/ --fit
      qo-infer photos/ --model runs/a/model.onnx --index photos.db
      qo-infer photos/ --no-index --out codes.csv
      qo-infer photos/ --watch

    Run again, it hashes what is new or changed (in size or time) and skips the rest. Everything that was hashed is
    kept at every moment: after Ctrl-C, the next run goes on from there. Every file that can't be read is named, with
    its reason. A picture's label is the first folder below FOLDER that it lies in, unless the model was trained with
    another --label-depth. Pictures are known by the endings of their names; -v says how many other names there are.

    With --fit it needs no model: one is fitted to these pictures, without labels, in a minute or two a thousand, and
    kept beside the index (photos.onnx beside photos.db), where the next run finds it.

    With --watch it goes on as files come, change and go. A file is hashed once it has come to rest, and one that can't
    be read is tried again before it is named. One that is gone keeps its code, marked stale, or, with --prune, is
    removed; where the folder itself goes away, nothing is changed until it is back. --json prints a line for each
    event.

    \b
    Exit codes:
      0  done
      1  done, but some pictures could not be read
      2  wrong usage, or a model that is not the index's
      3  no pictures, or none that can be read; no model
      4  a package that is needed is missing
    """
    _check(folder, target, keeping)
    started = time.monotonic()
    model = model_for(folder, None if target.no_index else target.index, fit, hashing, out)
    if rebuild:
        _rebuild(model, out)
    with hashing.open(model) as hasher:
        fit.check(hasher.card, model, target.index)
        out.log(f"model: {display_path(hasher.model_path)} ({hasher.card.bits} bits, {hasher.backend})")
        out.log(f"backend: {hasher.choice.name} ({hasher.choice.reason})")
        if keeping.watch:
            return _watch(folder, hasher, target, keeping, out)
        summary = _Summary(os.path.abspath(folder), str(hasher.model_path), hasher.backend)
        if target.no_index:
            _hash_to_file(folder, hasher, target, summary, out)
        else:
            _update(folder, hasher, target, keeping, summary, out)
    summary.seconds = time.monotonic() - started
    _report(summary, out)
    return ExitCode.SOME_FAILED if summary.bad else ExitCode.DONE


def _check(folder: Path, target: TargetOptions, keeping: KeepingOptions) -> None:
    """Raise what can be said before a model is looked for."""
    from queryopt.runtime.outputs import check_output
    from queryopt.runtime.watch import check_watching

    if target.no_index and target.out_path is None:
        raise UsageError("--no-index without --out would keep nothing: give --out codes.npz, say")
    if target.no_index and (target.index_path is not None or keeping.prune):
        raise UsageError("--no-index doesn't go with --index or --prune")
    if keeping.force and not (keeping.prune or keeping.watch):
        raise UsageError("--force goes with --prune, or with --watch")
    if keeping.watch:
        if target.no_index or target.out_path is not None:
            raise UsageError("--watch keeps an index: it doesn't go with --no-index or --out")
        check_watching()
    if target.out_path is not None:
        check_output(target.out_path)
    if not folder.exists():
        raise InputError(f"{display_path(folder)}: no such folder{near(folder)}")
    if not folder.is_dir():
        raise InputError(
            f"{display_path(folder)}: not a folder. To search with one picture: qo-search {display_path(folder)}"
        )


def _update(
    folder: Path,
    hasher: "Hasher",
    target: TargetOptions,
    keeping: KeepingOptions,
    summary: _Summary,
    out: Output,
) -> None:
    index, new = _open_for(folder, hasher, target, out)
    with index:
        report = index.update(hasher, prune=keeping.prune, force=keeping.force, progress=out.progress)
        summary.index, summary.images = str(index.path), len(index)
        summary.hashed, summary.updated, summary.unchanged = report.hashed, report.updated, report.unchanged
        summary.failed, summary.stale = dict(report.failed), dict(report.stale)
        summary.vanished, summary.removed = list(report.vanished), report.removed
        summary.precisions = list(report.precisions)
        summary.relabelled = report.relabelled
        _name(summary, out)
        summary.warnings = list(_look_at_codes(index))
        if target.out_path is not None and summary.images:
            index.export(target.out_path, out.progress)
            summary.out = os.path.abspath(target.out_path)
    if new and not summary.images:
        # An index of nothing, made a moment ago: as if it had not been.
        os.unlink(target.index)
    _require_codes(summary)


def _look_at_codes(index: "HashIndex") -> tuple[str, ...]:
    from queryopt.bit_quality import code_warnings

    ids, codes = index.codes()

    def labels() -> list[str] | None:
        label_of = {image.id: image.label for image in index}
        known = [label_of.get(id) or "" for id in ids.tolist()]
        return known if any(known) else None

    return code_warnings(codes, index.bits, labels)


def _watch(folder: Path, hasher: "Hasher", target: TargetOptions, keeping: KeepingOptions, out: Output) -> ExitCode:
    from queryopt.runtime.cli.watch import watch_folder
    from queryopt.runtime.watch import FolderWatch

    index, _ = _open_for(folder, hasher, target, out)
    with index:
        watching = FolderWatch(index, hasher, keeping.prune, keeping.force, keeping.settle, out.progress)
        return watch_folder(watching, out)


def _open_for(folder: Path, hasher: "Hasher", target: TargetOptions, out: Output) -> "tuple[HashIndex, bool]":
    """The index of this folder and model, and whether it is new."""
    index, new = _open_or_create(target.index, hasher, folder)
    try:
        index.check_root(folder)
        index.check_card(hasher.card, f"the model {display_path(hasher.model_path)}")
    except UsageError:
        index.close()
        raise
    so_far = "new" if new else f"{counted(len(index), 'picture', 'pictures')} so far"
    out.log(f"index: {display_path(index.path)} ({so_far})")
    if target.label_depth is not None and (changed := index.relabel(target.label_depth)):
        out.log(f"labels: {counted(changed, 'picture has', 'pictures have')} another one by --label-depth")
    return index, new


def _open_or_create(path: Path, hasher: "Hasher", folder: Path) -> "tuple[HashIndex, bool]":
    """The index, and whether it is new."""
    from queryopt.runtime.index import HashIndex

    if not path.exists():
        try:
            return HashIndex.create(path, hasher.card, folder, hasher.model_path), True
        except UsageError:
            if not path.exists():
                raise
            # Another process made it a moment ago.
    return HashIndex.open(path), False


def _rebuild(model: Path, out: Output) -> None:
    from queryopt.runtime.tensorrt.build import refresh_engine

    if model.suffix.lower() != ".plan":
        raise UsageError(f"{display_path(model)}: --rebuild is for a model.plan")
    out.log(f"engine: {display_path(model)}: building it again, if it doesn't fit: seconds to minutes")
    built = refresh_engine(model)
    out.log("engine: fits as it is" if built is None else f"engine: built again in {built.seconds:.0f} s")


def _hash_to_file(folder: Path, hasher: "Hasher", target: TargetOptions, summary: _Summary, out: Output) -> None:
    from queryopt.images import NOT_FOLLOWED, find_images
    from queryopt.labels import LabelRule
    from queryopt.runtime.outputs import writing_codes

    def skip(path: bytes, reason: str) -> None:
        where = os.path.join(summary.folder, os.fsdecode(path))
        if reason == NOT_FOLLOWED:
            out.warn(f"{display_path(where)}: {reason}")
        else:
            summary.failed[where] = reason

    assert target.out_path is not None
    paths = find_images(folder, skip)
    card = replace(hasher.card, label_depth=target.label_depth or hasher.card.label_depth)
    rule = LabelRule.of_folder(folder, card.label_depth)
    summary.out = os.path.abspath(target.out_path)
    with ExitStack() as stack:
        write = stack.enter_context(writing_codes(target.out_path, card))
        advance = stack.enter_context(out.progress("hash", len(paths)))
        for done in _write_stream(rule, paths, hasher, write, summary):
            advance(done)
        _name(summary, out)
        _require_codes(summary)


def _write_stream(
    rule: "LabelRule", paths: list[bytes], hasher: "Hasher", write: "Write", summary: _Summary
) -> Iterator[int]:
    from queryopt.runtime.index.rows import encode_margins
    from queryopt.runtime.outputs import CodeRows

    root = os.fsencode(summary.folder)
    with closing(hasher.stream(os.path.join(root, path) for path in paths)) as stream:
        for batch in stream:
            relative = [os.path.relpath(path, root) for path in batch.paths]
            labels = [*map(rule.name, relative)]
            margins = encode_margins(batch.codes, batch.logits, hasher.card.bits, hasher.card.logit_scale)
            write(CodeRows(relative, batch.codes, margins, labels))
            summary.hashed += len(batch)
            summary.failed |= {os.fsdecode(path): reason for path, reason in batch.failures.items()}
            yield len(batch) + len(batch.failures)


def _name(summary: _Summary, out: Output) -> None:
    """Name what could not be read, a line each."""
    from queryopt.images import failure_lines

    for line in (*failure_lines(summary.failed), *failure_lines(summary.stale, "; its code of before is kept")):
        out.warn(line)


def _require_codes(summary: _Summary) -> None:
    """Raise InputError where the folder holds nothing that has a code."""
    from queryopt.images import SUFFIXES

    if summary.done or summary.unchanged or summary.removed:
        return
    folder = display_path(summary.folder)
    if summary.bad:
        raise InputError(
            f"{folder}: nothing in it could be read: each of the {summary.bad:,} is named above, with its reason"
        )
    kept = f"; the {len(summary.vanished):,} of the index are kept" if summary.vanished else ""
    raise InputError(
        f"{folder}: no pictures in this folder or below it (looked for {' '.join(sorted(SUFFIXES))}){kept}"
    )


def _report(summary: _Summary, out: Output) -> None:
    parts = [f"{summary.hashed:,} hashed", f"{summary.updated:,} updated", f"{summary.unchanged:,} unchanged"]
    parts += [f"{summary.removed:,} removed"] if summary.removed else []
    parts += [f"{summary.relabelled:,} relabelled"] if summary.relabelled else []
    parts += [f"{summary.bad:,} failed"]
    rate = f" ({summary.done / summary.seconds:,.1f} images/s)" if summary.done else ""
    out.print(f"{', '.join(parts)} in {summary.seconds:.1f} s{rate}")
    if summary.vanished:
        out.print(f"{len(summary.vanished):,} in the index are gone from the folder: --prune removes them")
    if len(summary.precisions) > 1:
        out.print(f"codes of several precisions in this index: {', '.join(summary.precisions)}")
    if summary.index is not None:
        out.print(f"index: {display_path(summary.index)} ({counted(summary.images or 0, 'picture', 'pictures')})")
    if summary.out is not None:
        out.print(f"codes: {display_path(summary.out)}")
    for said in summary.warnings:
        out.warn(said)
    rate_json: dict[str, Any] = {"images_per_second": summary.done / summary.seconds if summary.done else None}
    out.result(vars(summary) | rate_json)
