"""Engines of `qo-export --engine`: its options, and what it says about a built engine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.cli import Output
from queryopt.export.parity_text import print_parity
from queryopt.runtime.tensorrt.build import BuiltEngine, build_engine, parse_bytes
from queryopt.runtime.tensorrt.flavours import FLAVOURS, load_flavour
from queryopt.runtime.tensorrt.manifest import manifest_path
from queryopt.runtime.tensorrt.profile import DEFAULT_PROFILE, Profile
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.export.engine_gate import Comparison, GatedEngine

__all__ = ["BuiltEngine", "EngineOptions", "build_engine", "engine_options", "engine_values"]


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine: see build_engine."""

    profile: Profile
    workspace: int | None
    timing_cache: str | None
    targets: tuple[str, ...]
    flavour: str

    def check(self) -> None:
        """Raise what can be said before anything is exported: a package that is missing."""
        load_flavour(self.flavour)

    def build(self, onnx: Path, out: Output, compare: Callable[[], "Comparison | str"]) -> "GatedEngine":
        """Build the engine beside a model.onnx, compare it where it can run, and say what came of it.

        compare: see build_gated_engine.
        """
        from queryopt.export.engine_gate import build_gated_engine

        out.log(f"building a TensorRT engine of {display_path(onnx)}: seconds to minutes")
        gated = build_gated_engine(
            onnx,
            compare,
            profile=self.profile,
            workspace=self.workspace,
            timing_cache=self.timing_cache,
            targets=self.targets,
            flavour=self.flavour,
        )
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
            print_parity(out, gated.parity)
        return gated


def _batches(profile: Profile) -> str:
    if profile.smallest == profile.largest:
        return f"{profile.largest:,}"
    return f"{profile.smallest:,} to {profile.largest:,}, best at {profile.best:,}"


def engine_values(gated: "GatedEngine") -> dict[str, object]:
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


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --engine and the options that go with it; the callback gets `engine: EngineOptions | None`."""

    def wrap(
        *arguments: Any,
        engine: bool,
        profile: str | None,
        workspace: str | None,
        timing_cache: str | None,
        targets: str | None,
        flavour: str,
        **options: Any,
    ) -> Any:
        given = {"--profile": profile, "--workspace": workspace, "--timing-cache": timing_cache, "--target": targets}
        left = [name for name, value in given.items() if value is not None]
        if left and not engine:
            raise click.UsageError(f"{left[0]} is for the engine: give --engine too")
        chosen = None
        if engine:
            chosen = EngineOptions(
                DEFAULT_PROFILE if profile is None else Profile.of(profile),
                None if workspace is None else parse_bytes(workspace),
                timing_cache,
                tuple(part for name in (targets or "").split(",") if (part := name.strip())),
                flavour,
            )
        return function(*arguments, engine=chosen, **options)

    wrap.__doc__ = function.__doc__
    wrap.__name__ = function.__name__
    wrap.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option(
            "--flavour",
            type=click.Choice(FLAVOURS),
            default="auto",
            show_default=True,
            help="The package that builds the engine; auto is tensorrt where it is installed, else tensorrt_rtx.",
        ),
        click.option(
            "--target",
            "targets",
            metavar="SM,…",
            help="Compute capabilities to build for, with tensorrt_rtx (tensorrt builds for the GPU that is here).  "
            "[default: sm_80,sm_86,sm_89,sm_120,sm_121]",
        ),
        click.option(
            "--timing-cache", metavar="FILE", help="Keep what the build measures, and use it in the next one."
        ),
        click.option("--workspace", metavar="SIZE", help="GPU memory that a layer may use as scratch, e.g. 4G."),
        click.option(
            "--profile",
            metavar="MIN,BEST,MAX",
            help=f"Smallest, best and largest batch of the engine.  [default: {DEFAULT_PROFILE}]",
        ),
        click.option("--engine", is_flag=True, help="Build a TensorRT engine too: model.plan and its manifest."),
    ):
        wrap = option(wrap)
    return wrap
