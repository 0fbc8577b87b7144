"""What an index is made of, and what searches of it cost."""

from dataclasses import dataclass

from queryopt.text import counted

__all__ = ["Cost", "Explanation", "SegmentExplanation"]


@dataclass(frozen=True)
class Cost:
    """What one query did.

    buckets: buckets of chunk tables looked up.
    codes: codes that the query was compared with, a scan's included.
    shells: steps (one distance in one chunk) that were finished.
    scanned: whether it ended in a scan of all codes.
    """

    buckets: int
    codes: int
    shells: int
    scanned: bool


@dataclass(frozen=True)
class SegmentExplanation:
    """One segment of an index.

    structure: 'scan', 'table' or 'multi-index'.
    reason: why.
    codes: rows, removed ones included.
    removed: of these.
    unique: distinct codes kept (for a scan: all).
    nbytes: bytes of memory.
    """

    structure: str
    reason: str
    codes: int
    removed: int
    unique: int
    nbytes: int

    def __str__(self) -> str:
        """A line for people."""
        removed = f", {self.removed:,} of them removed (passed over until they are half of the rows)" * (
            self.removed > 0
        )
        distinct = f", {counted(self.unique, 'distinct code', 'distinct codes')}" if self.structure != "scan" else ""
        rows = counted(self.codes, "row", "rows")
        return f"{self.structure}: {rows}{removed}{distinct}, {self.nbytes:,} bytes ({self.reason})"


@dataclass(frozen=True)
class Explanation:
    """How a HammingIndex searches.

    bits: the code length.
    codes: how many can be found.
    path: instructions ('avx512', 'avx2', 'plain', 'numpy').
    threads: for many queries.
    nbytes: bytes of memory in all.
    segments: one, unless codes were added since.
    costs: of each query that was asked about, over all segments.
    """

    bits: int
    codes: int
    path: str
    threads: int
    nbytes: int
    segments: tuple[SegmentExplanation, ...]
    costs: tuple[Cost, ...] = ()

    @property
    def structure(self) -> str:
        """The structure of the largest segment."""
        return self.segments[0].structure if self.segments else "scan"

    @property
    def unique(self) -> int:
        """Codes kept, over all segments."""
        return sum(segment.unique for segment in self.segments)

    def __str__(self) -> str:
        """A few lines for people."""
        each = self.nbytes / max(self.codes, 1)
        lines = [
            f"{self.codes:,} codes of {self.bits} bits, {self.nbytes:,} bytes ({each:.1f} a code), on {self.path}, "
            f"{counted(self.threads, 'thread', 'threads')}"
        ]
        lines += [f"  {segment}" for segment in self.segments]
        lines += [f"  query {i}: {_spent(cost, min(self.codes, self.unique))}" for i, cost in enumerate(self.costs)]
        return "\n".join(lines)


def _spent(cost: Cost, codes: int) -> str:
    """What a query did, in words. codes: how many different ones can be found, at most."""
    compared = f"compared with {counted(cost.codes, 'code', 'codes')}"
    buckets = f"looked up {counted(cost.buckets, 'bucket', 'buckets')}"
    if not cost.scanned:
        return f"{buckets} in {counted(cost.shells, 'step', 'steps')}, {compared}"
    if cost.buckets:
        return f"{buckets}, then scanned, which is quicker here than to look up more: {compared} in all"
    early = ": no other could come before those found" if cost.codes < codes else ""
    return f"scanned: {compared}{early}"
