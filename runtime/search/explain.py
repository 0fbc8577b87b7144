"""What an index is made of, and what searches of it cost."""

from dataclasses import dataclass

from queryopt.runtime.search.engines import Cost

__all__ = ["Explanation", "SegmentExplanation"]


@dataclass(frozen=True)
class SegmentExplanation:
    """One segment of an index.

    structure: 'scan', 'table' or 'multi-index'. reason: why. codes: rows, removed ones included. removed: of these.
    unique: distinct codes kept (for a scan: all). nbytes: bytes of memory.
    """

    structure: str
    reason: str
    codes: int
    removed: int
    unique: int
    nbytes: int


@dataclass(frozen=True)
class Explanation:
    """How a HammingIndex searches.

    bits: the code length. codes: how many can be found. path: instructions ('avx512', 'avx2', 'plain', 'numpy').
    threads: for many queries. nbytes: bytes of memory in all. segments: one, unless codes were added since.
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
            f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        ]
        for segment in self.segments:
            removed = f", {segment.removed:,} removed" if segment.removed else ""
            lines.append(
                f"  {segment.structure}: {segment.codes:,} codes{removed}, {segment.unique:,} kept, "
                f"{segment.nbytes:,} bytes ({segment.reason})"
            )
        for i, cost in enumerate(self.costs):
            end = "then scanned all" if cost.scanned else f"{cost.shells} steps"
            lines.append(f"  query {i}: {cost.buckets:,} buckets, {cost.codes:,} codes compared, {end}")
        return "\n".join(lines)
