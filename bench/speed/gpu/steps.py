"""The section `train-step`: where the time of a training step on the GPU goes, in float32 and in bfloat16."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from queryopt.bench.speed.gpu.section import Figure, GpuOptions, SectionReport, Turn, training_packages
from queryopt.bench.tables import figures_table

if TYPE_CHECKING:
    from queryopt.bench.speed.train_step import StepSpeed

__all__ = ["measure_steps"]

_STEPS, _ROUNDS = 20, 2
_WAYS = (("none", False), ("none", True), ("bf16", True))
"""amp and channels_last of each measurement."""


def measure_steps(options: GpuOptions, turn: Turn) -> SectionReport:
    """Time steps of the paper's run on CUB-200-2011, on made pictures. MissingError without what training needs."""
    with training_packages():
        from queryopt.bench.speed.train_step import made_images, measure_step
        from queryopt.train.presets import preset_config
    folder = options.folder / "steps"
    folder.mkdir()
    images = made_images(folder)
    preset = "tiny" if options.rehearse else "paper-cub200"
    steps, rounds = (1, 1) if options.rehearse else (_STEPS, _ROUNDS)

    def measure(amp: str, channels_last: bool) -> "StepSpeed":
        config = preset_config(preset, device=options.device, amp=amp, channels_last=channels_last)
        row = measure_step(config, images, steps=steps, rounds=rounds)
        turn.log(f"{_name(amp, channels_last)}: {row.images_per_second('ready'):,.0f} images/s")
        return row

    ways = _WAYS[:1] if options.rehearse else _WAYS
    return turn.attempt_all([(_name(*way), partial(measure, *way)) for way in ways], _report)


def _report(rows: "Sequence[StepSpeed]") -> SectionReport:
    """Milliseconds of each part of a step whose pictures are ready, and images a second in each way."""
    first = rows[0]
    parts, ways = tuple(first.ways["ready"].summary()), tuple(first.ways)
    title = (
        f"A training step: {first.backbone}, {first.columns} columns, {first.image_size} px, batches of {first.batch}, "
        f"{first.device}"
    )
    columns = (*(f"{part}, ms" for part in parts), *(f"images/s, {way}" for way in ways))
    table = figures_table(title, "", *columns, plain=True)
    figures = []
    for row in rows:
        name, summary = _name(row.amp, row.channels_last), row.ways["ready"].summary()
        times = (f"{1000 * summary[part]['median']:.2f}" for part in parts)
        table.add_row(name, *times, *(f"{row.images_per_second(way):,.0f}" for way in ways))
        rate = row.images_per_second("ready")
        figures.append(Figure(f"training, images/s, {name}, pictures ready", f"{rate:,.0f}", rate))
    return SectionReport({"rows": [row.to_dict() for row in rows]}, [table], figures)


def _name(amp: str, channels_last: bool) -> str:
    return ("fp32" if amp == "none" else amp) + (", channels last" if channels_last else "")
