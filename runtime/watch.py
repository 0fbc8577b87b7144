"""Keep an index up to date with its folder while that changes.

The system says what changed (inotify, FSEvents, …, through watchfiles); each file is hashed once it has come to rest,
in batches. What the system doesn't say is found by looking through the whole folder now and then. Where the folder
itself goes away (a disk that is unmounted), nothing is changed until it is back.
"""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from queryopt.errors import InputError, MissingError
from queryopt.images import SUFFIXES, find_images, is_hidden, leads_elsewhere
from queryopt.progress import Progress
from queryopt.runtime.index.update import UpdateReport
from queryopt.text import install_extra

if TYPE_CHECKING:
    from watchfiles.main import FileChange

    from queryopt.runtime.hasher import Hasher
    from queryopt.runtime.index import HashIndex

__all__ = ["FolderWatch", "WatchEvent", "WatchKind", "check_watching"]

WatchKind: TypeAlias = Literal["started", "updated", "gone", "back"]
"""The folder was looked through and is watched; files changed; the folder is not there; it is there again."""

_RESCAN = 600.0
"""Seconds between two looks through the whole folder: the system's queue of changes can overflow."""
_TRIES = 4
"""How often a file that can't be read is tried, each time after twice as long, before it is named."""
_POLL = 0.5
"""Seconds between two looks for a folder that is not there."""
_DEBOUNCE = 500
"""Milliseconds for which changes are gathered."""
_ENDINGS = frozenset(suffix.encode() for suffix in SUFFIXES)
_NOWHERE = (-1, -1)
_NOT_TEXT = "Unable to decode path"
"""How watchfiles stops at a name that is not UTF-8."""


@dataclass(frozen=True)
class WatchEvent:
    """Something happened. report: what was done, None for 'gone' and 'back'. refused: why what is gone was not removed
    with `prune`, "" where it was.
    """

    kind: WatchKind
    report: UpdateReport | None = None
    refused: str = ""


@dataclass
class _Pending:
    """A file that changed. since: when it was last seen to change, or tried. wait: seconds until it is looked at."""

    status: tuple[int, int]
    since: float
    wait: float
    tries: int = 0


@dataclass
class FolderWatch:
    """Watches the root of an index.

    prune: remove images whose files go away; else they are marked stale, and kept.
    force: also where more than half would go.
    settle: seconds that a file has to be left alone before it is hashed: whoever copies one in writes to it for a
        while.
    progress: of looks through the whole folder.

    MissingError where watchfiles is not installed.
    """

    index: "HashIndex"
    hasher: "Hasher"
    prune: bool = False
    force: bool = False
    settle: float = 1.0
    progress: Progress | None = None
    _pending: dict[bytes, _Pending] = field(default_factory=dict, init=False)
    _named: dict[str, str] = field(default_factory=dict, init=False)
    """Files that can't be read and were named, with the reason: not once more for the same."""
    _gone: set[bytes] = field(default_factory=set, init=False)
    """Files that are gone, and were dealt with, absolute."""

    def __post_init__(self) -> None:
        check_watching()

    def run(self) -> Iterator[WatchEvent]:
        """Watch until the caller stops (or is interrupted: all that was hashed is kept). Yields what happens.

        First the whole folder is brought up to date; that is the event 'started'.
        """
        started = False
        while True:
            identity = _identity(self.index.root)
            if identity is None:
                yield WatchEvent("gone")
                while (identity := _identity(self.index.root)) is None:
                    time.sleep(_POLL)
                yield WatchEvent("back")
            for event in self._follow(identity, started):
                yield event
                started = True

    def _follow(self, identity: tuple[int, int], started: bool) -> Iterator[WatchEvent]:
        """Watch the folder as long as it is the same one, and its names are text."""
        from watchfiles import watch
        from watchfiles._rust_notify import WatchfilesRustInternalError

        tick = max(20, min(250, int(500 * self.settle)))
        stream = watch(
            self.index.root,
            watch_filter=None,
            debounce=_DEBOUNCE,
            rust_timeout=tick,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        try:
            # It watches from here on; what changes while the folder is looked through comes after.
            try:
                changes = next(stream)
            except FileNotFoundError:  # gone a moment ago
                return
            except OSError as error:
                raise self._unwatchable(error) from None
            self._pending.clear()
            yield from self._catch_up(first=not started)
            looked = time.monotonic()
            while _identity(self.index.root) == identity:
                self._check_index()
                self._note(changes)
                if time.monotonic() - looked > _RESCAN:
                    yield from self._catch_up()
                    looked = time.monotonic()
                yield from self._refresh()
                changes = next(stream)
        except WatchfilesRustInternalError as error:
            if _NOT_TEXT not in str(error):
                raise self._unwatchable(error) from None
            # It stops at a name that is not UTF-8, and says no more. Whatever it was is found by looking through all.
            time.sleep(self.settle)
        finally:
            stream.close()

    def _check_index(self) -> None:
        """InputError where the index is not the file at its path any more: nobody would find what is written to it."""
        if self.index.replaced and self.index.root.is_dir():  # the index may lie in the folder, and be back with it
            raise InputError(
                f"{self.index.path}: the index was deleted, moved or made anew while {self.index.root} was watched: "
                "start it again, on the index as it is now"
            )

    def _unwatchable(self, error: Exception) -> InputError:
        return InputError(
            f"{self.index.root}: the system can't watch it ({error}): have it watch more folders (Linux: sysctl "
            "fs.inotify.max_user_watches), or set WATCHFILES_FORCE_POLLING=1 to have the folder looked through instead"
        )

    def _catch_up(self, first: bool = False) -> Iterator[WatchEvent]:
        """Look through the whole folder."""
        try:
            report = self.index.update(self.hasher, progress=self.progress)
        except InputError:
            if self.index.root.is_dir():
                raise
            return  # gone a moment ago
        gone = [os.fsencode(path) for path in report.vanished]
        self._gone.intersection_update(gone)
        if not first:
            # What can't be read may be in the middle of being written.
            root = os.fsencode(self.index.root)
            unread = [path for path in (*report.failed, *report.stale) if path not in self._named]
            self._add([os.path.relpath(os.fsencode(path), root) for path in unread])
        yield from self._tell(report, gone, "started" if first else "updated")

    def _note(self, changes: "set[FileChange]") -> None:
        """Take down which files changed."""
        for _, name in changes:
            relative = os.path.relpath(os.fsencode(name), os.fsencode(self.index.root))
            if relative == b"." or relative.startswith(b"../") or not self._visible(relative):
                continue
            if os.path.isdir(name):
                self._add([os.path.join(relative, path) for path in _pictures_below(name)])
            elif not os.path.lexists(name):
                # A folder that is gone says nothing of what it held.
                self._add([relative, *self.index.find_below(name)])
            else:
                self._add([relative])

    def _add(self, paths: list[bytes]) -> None:
        for path in paths:
            if os.path.splitext(path)[1].lower() in _ENDINGS:
                self._pending[path] = _Pending(self._status(path), time.monotonic(), self.settle)

    def _refresh(self) -> Iterator[WatchEvent]:
        """Hash what has come to rest."""
        now = time.monotonic()
        ready = []
        for path, one in self._pending.items():
            if now - one.since < one.wait:
                continue
            status = self._status(path)
            if status == one.status:
                ready.append(path)
            else:
                one.status, one.since, one.wait, one.tries = status, now, self.settle, 0
        if not ready:
            return
        gone = [path for path in ready if self._pending[path].status == _NOWHERE]
        there = set(ready).difference(gone)
        self._gone.difference_update(os.path.join(os.fsencode(self.index.root), path) for path in there)
        report = self.index.refresh(self.hasher, there)
        self._retry(ready, report)
        yield from self._tell(report, gone)

    def _tell(self, report: UpdateReport, gone: list[bytes], kind: WatchKind = "updated") -> Iterator[WatchEvent]:
        """Deal with what is gone, and say what is new in all. report: of what was hashed."""
        root = os.fsencode(self.index.root)
        gone = [path for path in (os.path.join(root, one) for one in gone) if path not in self._gone]
        refused = ""
        dealt = UpdateReport()
        try:
            if gone:
                dealt = self.index.refresh(self.hasher, gone, self.prune, self.force)
        except InputError as error:
            if not self.index.root.is_dir():
                return  # what is gone now may be back with it
            refused = str(error)
        self._gone |= set(map(os.fsencode, dealt.vanished))
        news = UpdateReport(
            report.hashed + dealt.hashed,
            report.updated + dealt.updated,
            report.unchanged,
            self._unnamed({**report.failed, **dealt.failed}),
            self._unnamed({**report.stale, **dealt.stale}),
            dealt.vanished,
            dealt.removed,
            report.precisions,
        )
        told = (news.hashed, news.updated, news.removed, news.failed, news.stale, news.vanished)
        if kind == "started" or any(told) or refused:
            yield WatchEvent(kind, news, refused)

    def _retry(self, ready: list[bytes], report: UpdateReport) -> None:
        """Have what could not be read tried again: it may be in the middle of being written."""
        root = os.fsencode(self.index.root)
        for path in ready:
            one = self._pending.pop(path)
            if os.fsdecode(os.path.join(root, path)) in {**report.failed, **report.stale}:
                one.tries += 1
                if one.tries < _TRIES:
                    one.since, one.wait = time.monotonic(), self.settle * 2**one.tries
                    one.status = self._status(path)
                    self._pending[path] = one

    def _unnamed(self, failures: Mapping[str, str]) -> dict[str, str]:
        """Those that were not named before for the same reason, and that are not tried again."""
        root = os.fsencode(self.index.root)
        news = {
            path: reason
            for path, reason in failures.items()
            if os.path.relpath(os.fsencode(path), root) not in self._pending and self._named.get(path) != reason
        }
        self._named |= news
        return news

    def _visible(self, relative: bytes) -> bool:
        """Whether find_images would come to it: no hidden name on the way, and no link to a folder inside or above."""
        parts = relative.split(b"/")
        if any(map(is_hidden, parts)):
            return False
        here = os.fsencode(self.index.root)
        root = [os.path.realpath(here)]
        for part in parts:
            here = os.path.join(here, part)
            if os.path.islink(here) and os.path.isdir(here) and not leads_elsewhere(here, root):
                return False
        return True

    def _status(self, path: bytes) -> tuple[int, int]:
        try:
            status = os.stat(os.path.join(os.fsencode(self.index.root), path))
        except OSError:
            # A link that leads nowhere is there, and can't be read.
            return (-2, -2) if os.path.islink(os.path.join(os.fsencode(self.index.root), path)) else _NOWHERE
        return status.st_size, status.st_mtime_ns


def check_watching() -> None:
    """MissingError where watchfiles is not installed."""
    from importlib.util import find_spec

    if find_spec("watchfiles") is None:
        raise MissingError(f"watching a folder needs watchfiles, which is not installed: {install_extra('watch')}")


def _identity(root: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None where there is none."""
    try:
        status = os.stat(root)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if os.path.isdir(root) else None


def _pictures_below(folder: str) -> list[bytes]:
    try:
        return find_images(folder, lambda path, reason: None)
    except InputError:  # gone again
        return []
