"""qo-bench: a group of benchmarks. Their modules are thin; each imports what it needs when it is called."""

import click

from queryopt import __version__
from queryopt.bench.cli import (
    ablation,
    evaluation,
    flops,
    gpu,
    latency,
    parity,
    search,
    serve,
    solver,
    throughput,
    train_step,
    welch,
)
from queryopt.cli import Group

__all__ = ["main"]


@click.group("qo-bench", cls=Group)
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Measure what a network costs, how fast it runs, and how fast codes are searched.

    \b
    Examples:
      qo-bench flops --bits 12
      qo-bench throughput photos/ --model model.onnx
    """


for module in (
    *(ablation, evaluation, flops, gpu, latency, parity),
    *(search, serve, solver, throughput, train_step, welch),
):
    main.add_command(module.command)
