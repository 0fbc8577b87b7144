"""`qo-index`: look into an index, check it, change it."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt import __version__
from queryopt.cli import Group, Output, common_options, threads_option
from queryopt.errors import ExitCode, UsageError
from queryopt.kinds import Kind, kind_of
from queryopt.runtime.hits import plain
from queryopt.text import counted, display_path, file_size

if TYPE_CHECKING:
    from rich.table import Table

    from queryopt.runtime.duplicates import Copy
    from queryopt.runtime.index import HashIndex

__all__ = ["main"]

_index = click.argument("index", type=click.Path(path_type=Path))


class _IndexGroup(Group):
    """`qo-index photos.db` is `qo-index info photos.db`, and `qo-index photos.db verify` the command with its INDEX."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first, *rest = args
        if first not in self.commands and kind_of(first) is Kind.INDEX:
            args = [rest[0], first, *rest[1:]] if rest and rest[0] in self.commands else ["info", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_IndexGroup, name="qo-index")
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Look into an index of picture codes, check it, change it.

    \b
    Examples:
      qo-index photos.db
      qo-index verify photos.db
      qo-index duplicates photos.db
      qo-index export photos.db codes.parquet
      qo-index backup photos.db copy.db
    """


@main.command()
@_index
@common_options
def info(index: Path, out: Output) -> None:
    """Say what INDEX holds: pictures, model, folder, size.

    \b
    Example:
      qo-index info photos.db
    """
    from queryopt.runtime.index.connection import Access

    with _open(index, readonly=True) as opened:
        facts = opened.info()
    card = facts.card
    alone = f", {facts.access}" if facts.access == Access.FROZEN.value else ""
    rows = {
        "index": f"{display_path(facts.path)} ({file_size(facts.bytes)}, schema {facts.schema_version}{alone})",
        "pictures": f"{facts.images:,}" + (f", {facts.stale:,} of them stale" if facts.stale else ""),
        "labels": f"{facts.labels:,}",
        "folder": display_path(facts.root) + ("" if facts.root_exists else "  (not there)"),
        "model": "unknown" if facts.model_path is None else display_path(facts.model_path),
        "codes": f"{facts.bits} bits, {card.backbone}, {', '.join(facts.precisions)}",
        "fingerprint": card.fingerprint,
        "made by": facts.created_by,
    }
    out.print("\n".join(f"{name:12}{value}" for name, value in rows.items()))
    out.result(asdict(facts))


@main.command()
@_index
@click.option("--repair", is_flag=True, help="Build damaged blocks of codes anew from the rows, where these are sound.")
@common_options
def verify(index: Path, repair: bool, out: Output) -> ExitCode:
    """Check that INDEX is whole and sound.

    \b
    Example:
      qo-index verify photos.db

    Every checksum is checked, and that all that is stored twice agrees. What is damaged is named, a line each; the exit
    code is 1 then.
    """
    with _open(index, readonly=not repair) as opened:
        report = opened.verify(repair, out.progress)
    for problem in report.problems:
        out.warn(problem)
    for mended in report.repaired:
        out.log(f"mended: {mended}")
    if report.backup is not None:
        out.log(f"the index as it was before: {display_path(report.backup)}")
    out.print(
        f"{display_path(index)}: {counted(report.images, 'picture', 'pictures')} and "
        f"{counted(report.blocks, 'block', 'blocks')} checked, "
        + ("all well" if report.ok else f"{counted(len(report.problems), 'problem', 'problems')}, named above")
    )
    out.result(asdict(report) | {"ok": report.ok})
    return ExitCode.DONE if report.ok else ExitCode.SOME_FAILED


@main.command()
@_index
@threads_option
@common_options
def duplicates(index: Path, threads: int | None, out: Output) -> ExitCode:
    """Find copies of one picture in INDEX: resized, compressed again, slightly cropped.

    \b
    Examples:
      qo-index duplicates photos.db
      qo-index duplicates photos.db --json > copies.json

    Codes and margins say which pictures may be copies, and their files which are: each is read once. The first of a
    group has the most pixels. Nothing is changed or deleted. Files that are gone, or have changed since they were
    hashed, are named, and the exit code is 1 then.
    """
    from queryopt.runtime.duplicates import find_duplicates

    with _open(index, readonly=True) as opened:
        *_, found = find_duplicates(opened, threads, out.progress)
    for path, reason in found.problems.items():
        out.warn(f"{display_path(path)}: {reason}")
    for number, group in enumerate(found.groups, 1):
        out.print(f"{number}:", _table(group))
    out.print(
        f"{counted(len(found.groups), 'group', 'groups')} of copies, "
        f"{counted(found.pictures, 'picture', 'pictures')} of {found.images:,}"
    )
    out.result(
        {
            "groups": [[_copy(one) for one in group] for group in found.groups],
            "images": found.images,
            "pairs": found.pairs,
            "problems": {plain(path): reason for path, reason in found.problems.items()},
        }
    )
    return ExitCode.SOME_FAILED if found.problems else ExitCode.DONE


def _table(group: "Sequence[Copy]") -> "Table":
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for justify in ("right", "right", "right", "right", "left"):
        table.add_column(justify=justify)
    for one in group:
        apart = ("", "") if one is group[0] else (counted(one.bits, "bit", "bits"), f"{one.difference:.1f}")
        path = display_path(one.image.relative)
        table.add_row(f"  {one.width} x {one.height}", file_size(one.image.size), *apart, path)
    return table


def _copy(one: "Copy") -> dict[str, Any]:
    return {
        "id": one.image.id,
        "path": plain(one.image.relative),
        "width": one.width,
        "height": one.height,
        "bytes": one.image.size,
        "bits": one.bits,
        "difference": round(one.difference, 2),
    }


@main.command()
@_index
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=bytes, readable=False))
@click.option("--ids", is_flag=True, help="The arguments are ids, not paths.")
@common_options
def remove(index: Path, images: tuple[bytes, ...], ids: bool, out: Output) -> None:
    """Remove pictures from INDEX, never from the disk.

    \b
    Examples:
      qo-index remove photos.db photos/birds/17.jpg
      qo-index remove photos.db --ids 17 18

    All that are named are removed, or, if one of them is not in INDEX, none.
    """
    with _open(index) as opened:
        removed = opened.remove([_id(text) for text in images] if ids else [_named(opened, text) for text in images])
        left = len(opened)
    out.print(f"{removed:,} removed, {left:,} left")
    out.result({"removed": removed, "images": left})


@main.command()
@_index
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@common_options
def export(index: Path, path: Path, out: Output) -> None:
    """Write the codes of INDEX to a .npz, .csv or .parquet FILE. An older file of codes is replaced, no other.

    \b
    Example:
      qo-index export photos.db codes.csv
    """
    with _open(index, readonly=True) as opened:
        count = opened.export(path, out.progress)
    out.print(f"{counted(count, 'code', 'codes')}: {display_path(path)}")
    out.result({"codes": count, "out": path})


@main.command()
@_index
@click.argument("others", metavar="OTHER...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--root", type=click.Path(path_type=Path), help="The folder of a new INDEX, above those of all others.")
@common_options
def merge(index: Path, others: tuple[Path, ...], root: Path | None, out: Output) -> None:
    """Take the pictures of OTHER indexes into INDEX.

    \b
    Example:
      qo-index merge all.db photos.db more.db

    All must be of the same model. INDEX is made if it isn't there, for the nearest folder that is above those of all
    OTHERs. Pictures that both know keep the newer code. The others are left as they are.
    """
    counts = {"added": 0, "updated": 0, "kept": 0}
    with _open_or_create(index, others, root) as opened:
        for path in others:
            with _open(path, readonly=True) as other:
                report = opened.merge(other, out.progress)
            for name, value in asdict(report).items():
                counts[name] += value
        images = len(opened)
    done = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    out.print(f"{done}; {counted(images, 'picture', 'pictures')}")
    out.result(counts | {"index": index, "images": images})


@main.command()
@_index
@click.argument("copy", metavar="COPY", type=click.Path(path_type=Path))
@common_options
def backup(index: Path, copy: Path, out: Output) -> None:
    """Copy INDEX as it is now, also while others write to it.

    \b
    Example:
      qo-index backup photos.db copy.db
    """
    with _open(index, readonly=True) as opened:
        opened.backup(copy)
        images = len(opened)
    out.print(f"{counted(images, 'picture', 'pictures')}: {display_path(copy)}")
    out.result({"images": images, "backup": copy})


@main.command()
@_index
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Also where none of the pictures is in FOLDER.")
@common_options
def root(index: Path, folder: Path, force: bool, out: Output) -> None:
    """Say that the pictures of INDEX lie in FOLDER now.

    Their names below it are to be the same as before; some 2,000 of them are looked for.

    \b
    Example:
      qo-index root photos.db /mnt/photos
    """
    with _open(index) as opened:
        report = opened.move_root(folder, force)
        out.print(f"{display_path(opened.path)}: its pictures are below {display_path(opened.root)}")
        sample = "" if report.checked == report.images else f", a sample of its {report.images:,},"
        looked = f"{counted(report.checked, 'picture', 'pictures')}{sample}"
        if report.images and report.found == report.checked:
            out.print(f"looked for {looked}: all are there")
        elif report.images:
            out.warn(f"looked for {looked} there, and {report.checked - report.found:,} of them are missing")
        out.result({"index": opened.path, "root": opened.root} | asdict(report))


def _open(path: Path, readonly: bool = False) -> "HashIndex":
    from queryopt.runtime.index import HashIndex

    return HashIndex.open(path, readonly=readonly)


def _open_or_create(path: Path, others: tuple[Path, ...], root: Path | None) -> "HashIndex":
    from queryopt.runtime.index import HashIndex
    from queryopt.runtime.index.merge import HASH_AGAIN

    if path.exists():
        if root is not None:
            raise UsageError(f"{display_path(path)} is there already, with its own folder: leave --root out")
        return HashIndex.open(path)
    roots: list[str] = []
    with HashIndex.open(others[0], readonly=True) as first:
        card, model = first.card, first.model_path
        # All are looked at before a file is made that would be left behind.
        for other in others:
            with HashIndex.open(other, readonly=True) as opened:
                first.check_card(opened.card, f"the model of {display_path(opened.path)}", HASH_AGAIN)
                roots.append(os.path.realpath(opened.root))
    above = os.path.commonpath(roots)
    if root is None and above == os.sep:
        raise UsageError(
            f"the folders of these indexes ({', '.join(map(display_path, roots))}) have no folder in common but "
            f"{os.sep}: if that is to be the folder of {display_path(path)}, say so with --root {os.sep}"
        )
    return HashIndex.create(path, card, above if root is None else root, model)


def _named(index: "HashIndex", path: bytes) -> bytes:
    """A path as typed is relative to here; where there is no such picture, it may be meant relative to the root."""
    here = os.path.abspath(path)
    if index.find(here) is not None:
        return here
    if index.find(path) is not None:
        return path
    if path.isdigit():
        raise UsageError(f"{path.decode()}: no picture of {display_path(index.path)} has this name; --ids takes ids")
    return here


def _id(text: bytes) -> int:
    if not text.isdigit():
        raise UsageError(f"{display_path(text)}: an id is a whole number")
    return int(text)
