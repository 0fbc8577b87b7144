"""Engines of `qo-export --engine`: its options."""

from dataclasses import dataclass

import click

from queryopt.cli import option_group
from queryopt.runtime.tensorrt.build import BuiltEngine, build_engine, parse_bytes
from queryopt.runtime.tensorrt.flavours import FLAVOURS, load_flavour
from queryopt.runtime.tensorrt.profile import DEFAULT_PROFILE, Profile

__all__ = ["BuiltEngine", "EngineOptions", "build_engine", "engine_options"]


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine: arguments of build_engine."""

    profile: Profile
    workspace: int | None
    timing_cache: str | None
    targets: tuple[str, ...]
    flavour: str

    def check(self) -> None:
        """Raise what can be said before anything is exported: a package that is missing."""
        load_flavour(self.flavour)


def _engine(
    engine: bool,
    profile: str | None,
    workspace: str | None,
    timing_cache: str | None,
    targets: str | None,
    flavour: str,
) -> EngineOptions | None:
    options = {"--profile": profile, "--workspace": workspace, "--timing-cache": timing_cache, "--target": targets}
    named = [name for name, value in options.items() if value is not None]
    if named and not engine:
        raise click.UsageError(f"{named[0]} is for the engine: give --engine too")
    if not engine:
        return None
    return EngineOptions(
        DEFAULT_PROFILE if profile is None else Profile.of(profile),
        None if workspace is None else parse_bytes(workspace),
        timing_cache,
        tuple(part for name in (targets or "").split(",") if (part := name.strip())),
        flavour,
    )


engine_options = option_group(
    "engine",
    _engine,
    click.option("--engine", is_flag=True, help="Build a TensorRT engine too: model.plan and its manifest."),
    click.option(
        "--profile",
        metavar="MIN,BEST,MAX",
        help=f"Smallest, best and largest batch of the engine.  [default: {DEFAULT_PROFILE}]",
    ),
    click.option("--workspace", metavar="SIZE", help="GPU memory that a layer may use as scratch, e.g. 4G."),
    click.option("--timing-cache", metavar="FILE", help="Keep what the build measures, and use it in the next one."),
    click.option(
        "--target",
        "targets",
        metavar="SM,…",
        help="Compute capabilities to build for, with tensorrt_rtx (tensorrt builds for the GPU that is here).  "
        "[default: sm_80,sm_86,sm_89,sm_120,sm_121]",
    ),
    click.option(
        "--flavour",
        type=click.Choice(FLAVOURS),
        default="auto",
        show_default=True,
        help="The package that builds the engine; auto is tensorrt where it is installed, else tensorrt_rtx.",
    ),
)
"""Adds --engine and the options that go with it; the callback gets `engine: EngineOptions | None`."""
