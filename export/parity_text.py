"""A parity report in words, for qo-export."""

from queryopt.cli import Output
from queryopt.export.parity import ParityReport
from queryopt.text import counted

__all__ = ["print_parity"]


def print_parity(out: Output, parity: ParityReport, title: str = "") -> None:
    """Print a report in two lines, the first after a title."""
    against = parity.reference.split()[0]
    rate = f"{parity.flip_rate:.1e}" if parity.flipped else "0"
    sure = f", {parity.flipped_sure:,} of them with |logit| >= {parity.near_zero_epsilon:g}" if parity.flipped else ""
    out.print(
        f"{title:<10}{parity.flipped:,} of {parity.bits_compared:,} bits flipped against {against} on {parity.backend}"
        f"{sure} (rate {rate}, with 95 % confidence below {parity.flip_rate_upper_95:.1e})"
    )
    change = ""
    if parity.map is not None:
        change = (
            f"; mAP {100 * parity.map.reference:.2f} -> {100 * parity.map.model:.2f} ({parity.map.points:+.2f} points, "
            f"{counted(parity.map.queries, 'labelled picture', 'labelled pictures')} against each other)"
        )
    out.print(
        f"          largest logit difference {parity.max_logit_difference:.1e}; top-10 overlap "
        f"{parity.top10_overlap:.4f}{change}"
    )
