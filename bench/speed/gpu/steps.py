"""The section `train-step`: where the time of a training step on the GPU goes, in float32 and in bfloat16."""

from collections.abc import Sequence
from functools import partial

from queryopt.bench.machine import Report
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, SectionReport, Turn, training_packages
from queryopt.bench.tables import figures_table

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

    def measure(amp: str, channels_last: bool) -> Report:
        config = preset_config(preset, device=options.device, amp=amp, channels_last=channels_last)
        row = measure_step(config, images, steps=steps, rounds=rounds)
        turn.log(f"{_name(amp, channels_last)}: {row.values['summary']['ready']['images_per_second']:,.0f} images/s")
        return row

    ways = _WAYS[:1] if options.rehearse else _WAYS
    return turn.attempt_all([(_name(*way), partial(measure, *way)) for way in ways], _report)


def _report(rows: Sequence[Report]) -> SectionReport:
    """Milliseconds of each part of a step whose pictures are ready, and images a second in each way."""
    first = rows[0].values
    parts, ways = tuple(first["summary"]["ready"]["parts"]), tuple(first["summary"])
    title = (
        "A training step: {backbone}, {columns} columns, {image_size} px, batches of {batch}, {device}"
    ).format_map(first)
    columns = (*(f"{part}, ms" for part in parts), *(f"images/s, {way}" for way in ways))
    table = figures_table(title, "", *columns, plain=True)
    figures = []
    for row in rows:
        name, summary = _name(row.values["amp"], row.values["channels_last"]), row.values["summary"]
        times = (f"{1000 * summary['ready']['parts'][part]['median']:.2f}" for part in parts)
        table.add_row(name, *times, *(f"{summary[way]['images_per_second']:,.0f}" for way in ways))
        rate = summary["ready"]["images_per_second"]
        figures.append(Figure(f"training, images/s, {name}, pictures ready", f"{rate:,.0f}", rate))
    return SectionReport({"rows": [row.to_dict() for row in rows]}, [table], figures)


def _name(amp: str, channels_last: bool) -> str:
    return ("fp32" if amp == "none" else amp) + (", channels last" if channels_last else "")
