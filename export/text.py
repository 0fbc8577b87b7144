"""What qo-export says: of a model.onnx and of an engine, in words and for --json."""

import json
from typing import TYPE_CHECKING

from queryopt.cli import Output
from queryopt.export.gate import GatedEngine
from queryopt.export.parity import MIN_BITS, ParityReport
from queryopt.runtime.tensorrt.flavours import load_flavour
from queryopt.runtime.tensorrt.manifest import manifest_path
from queryopt.runtime.tensorrt.profile import Profile
from queryopt.text import counted, display_path, listed

if TYPE_CHECKING:
    from queryopt.export.fold import FoldReport
    from queryopt.export.onnx import ExportResult
    from queryopt.export.quantize import QuantisationReport

__all__ = ["engine_values", "export_values", "print_engine", "print_export"]


def print_export(out: Output, result: "ExportResult") -> None:
    """Print what was written, what the gate says of it and what comes next: five lines; with -v all that is known."""
    card, strip = result.card, result.strip
    replaced = ""
    if result.replaced is not None:
        same = "the same checkpoint" if result.replaced == card.fingerprint else "another checkpoint"
        replaced = f", in place of one of {same}"
    out.print(
        f"model:    {display_path(result.path)}  ({result.size / 1e6:,.1f} MB, {card.precision}, fingerprint "
        f"{card.fingerprint[:12]}…){replaced}"
    )
    size = card.preprocessing.image_size
    method = "" if card.method == "queryopt" else f" ({card.method})"
    out.print(f"code:     {card.bits} bits of {card.backbone}{method} at {size} x {size} pixels")
    stripped = f"{' and '.join(strip.stripped) or 'nothing'} stripped"
    folded = (
        "" if result.fold is None else f", folded ({100 * (1 - result.fold.after / result.fold.before):.1f} % fewer)"
    )
    out.print(f"network:  {strip.multiply_adds:,} multiply-adds a picture; {stripped}{folded}")
    if out.verbose:
        _print_strip(out, result)
        if result.quantisation is not None:
            _print_quantisation(out, result.quantisation)
        _print_parities(out, result)
    else:
        out.print(f"parity:   {_verdict(result)}")
    out.print(f"next:     qo-infer FOLDER --model {display_path(result.path)}")


def _verdict(result: "ExportResult") -> str:
    """What the gate found, over all that can run the model here."""
    if result.parity is None:
        return "not checked (--no-parity)"
    worst = max(result.parities, key=lambda report: report.flipped)
    backends = " and ".join(report.backend.split()[0] for report in result.parities)
    change = "" if worst.map is None else f", mAP {worst.map.points:+.2f} points"
    some = "" if len(result.parities) == 1 else "at most "
    return (
        f"passed: {some}{worst.flipped:,} of {worst.bits_compared:,} bits flipped against {worst.reference.split()[0]} "
        f"on {backends}{change}"
    )


def _print_strip(out: Output, result: "ExportResult") -> None:
    strip, card = result.strip, result.card
    out.print("stripped: " + ("; ".join(f"{name} ({size})" for name, size in strip.stripped.items()) or "nothing"))
    branches = counted(strip.branches, "branch", "branches")
    out.print(
        f"          {strip.multiply_adds_training:,} multiply-adds with {branches} -> "
        f"{strip.multiply_adds:,} in the {strip.graph} graph; logits equal the training network's within "
        f"{strip.max_logit_difference:.1e}"
    )
    if result.fold is None:
        why = "--no-fold" if card.method == "queryopt" else f"nothing to rewrite in a network of {card.method}"
        out.print(f"folded:   no ({why})")
    else:
        _print_fold(out, result.fold)


def _print_fold(out: Output, fold: "FoldReport") -> None:
    out.print(
        f"folded:   {fold.before:,} multiply-adds of the inference network -> {fold.after:,} "
        f"({100 * (1 - fold.after / fold.before):.1f} % fewer)"
    )
    for step in sorted(fold.steps, key=lambda step: -step.saved):
        if step.saved:
            out.print(f"          {step.saved:>13,}  {step.name}")
    if fold.norms_left:
        left = counted(len(fold.norms_left), "batch norm follows", "batch norms follow")
        out.print(f"          {left} no convolution alone, and stay as they are: {listed(fold.norms_left)}")


def _print_quantisation(out: Output, report: "QuantisationReport") -> None:
    kept = ", ".join(report.kept) or "none"
    out.print(
        f"int8:     {len(report.layers) - len(report.kept)} of {len(report.layers)} layers, calibrated on "
        f"{counted(report.pictures, 'picture', 'pictures')}; kept in fp32 by measurement: {kept}"
    )
    if report.refusals:
        times = counted(report.refusals, "time", "times")
        out.print(f"          so many since the gate refused fewer, {times}")
    if report.kept:
        worst = ", ".join(f"{name} {error:.1e}" for name, error in report.sensitivity[:3])
        out.print(
            f"          of the calibration pictures' bits {100 * report.first_flip_rate:.2f} % flipped before, "
            f"{100 * report.flip_rate:.2f} % now; change of the logits when quantised alone: {worst}"
        )


def _print_parities(out: Output, result: "ExportResult") -> None:
    parity = result.parity
    if parity is None:
        out.print("parity:   not checked (--no-parity)")
        return
    for number, report in enumerate(result.parities):
        _print_parity(out, report, "" if number else "parity:")
    why = f", with flips and crops to reach {MIN_BITS:,} bits" if parity.views > parity.pictures else ""
    out.print(
        f"          {counted(parity.views, 'view', 'views')} of {counted(parity.pictures, 'picture', 'pictures')} "
        f"({result.pictures}){why}; {100 * parity.near_zero:.2f} % of logits within "
        f"{parity.near_zero_epsilon:g} of zero"
    )
    for name, reason in result.not_compared.items():
        out.log(f"not compared on {name}: {reason}")


def _print_parity(out: Output, parity: ParityReport, title: str = "") -> None:
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


def print_engine(out: Output, gated: GatedEngine) -> None:
    """Print what was built, for what, and how it was compared."""
    built, manifest = gated.built, gated.built.manifest
    title = load_flavour(manifest.flavour).text
    out.print(
        f"engine:   {display_path(built.path)}  ({manifest.plan_bytes / 1e6:,.1f} MB, {manifest.card.precision}, "
        f"{title}, {built.seconds:.1f} s)"
    )
    out.print(f"          for {manifest.built_for}; batches of {_batches(manifest.profile)}")
    out.print(f"          described by {display_path(manifest_path(built.path))}")
    if gated.parity is None:
        out.print(f"          {gated.note}")
    else:
        _print_parity(out, gated.parity)


def _batches(profile: Profile) -> str:
    if profile.smallest == profile.largest:
        return f"{profile.largest:,}"
    return f"{profile.smallest:,} to {profile.largest:,}, best at {profile.best:,}"


def export_values(result: "ExportResult", stopped: tuple[int, int] | None) -> dict[str, object]:
    """An export for --json. stopped: iterations done and planned, of a run that did not come to its end."""
    parity = result.parity
    return {
        "model": result.path,
        "bytes": result.size,
        "bits": result.card.bits,
        "fingerprint": result.card.fingerprint,
        "replaced": result.replaced,
        "fold": None if result.fold is None else result.fold.to_dict(),
        "strip": result.strip.to_dict(),
        "parity": None if parity is None else {**parity.to_dict(), "failures": dict(parity.failures)},
        "parities": [one.to_dict() for one in result.parities],
        "not_compared": dict(result.not_compared),
        "warnings": [] if parity is None else list(parity.warnings),
        "quantisation": None if result.quantisation is None else result.quantisation.to_dict(),
        "pictures": result.pictures,
        "stopped_early": None if stopped is None else {"iterations_done": stopped[0], "iterations": stopped[1]},
        "card": json.loads(result.card.to_json()),
    }


def engine_values(gated: GatedEngine) -> dict[str, object]:
    """A built engine for --json."""
    built, manifest = gated.built, gated.built.manifest
    return {
        "engine": built.path,
        "manifest": manifest_path(built.path),
        "bytes": manifest.plan_bytes,
        "flavour": manifest.flavour,
        "version": manifest.version,
        "gpu": manifest.gpu,
        "capabilities": [f"{major}.{minor}" for major, minor in manifest.capabilities],
        "precision": manifest.card.precision,
        "profile": str(manifest.profile),
        "seconds": built.seconds,
        "parity": manifest.parity,
        "parity_note": manifest.parity_note,
    }
