"""The section `train-step`: where the time of a training step on the GPU goes, in float32 and in bfloat16."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Turn, left_out_tables, reason_of
from queryopt.errors import MissingError, QueryOptError
from queryopt.text import install_extra

if TYPE_CHECKING:
    from queryopt.bench.speed.train_step import StepSpeed

__all__ = ["StepsReport", "measure_steps"]

_STEPS, _ROUNDS = 20, 2
_WAYS = (("none", False), ("none", True), ("bf16", True))
"""amp and channels_last of each measurement."""


@dataclass(frozen=True)
class StepsReport:
    """What was measured. left_out: what could not be, and why."""

    rows: tuple["StepSpeed", ...]
    left_out: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return {"rows": [row.to_dict() for row in self.rows], "left_out": [list(one) for one in self.left_out]}

    def tables(self) -> list[Table]:
        """Milliseconds of each part of a step whose pictures are ready, and images a second in each way."""
        title = "A training step"
        if self.rows:
            row = self.rows[0]
            title += (
                f": {row.backbone}, {row.columns} columns, {row.image_size} px, batches of {row.batch}, {row.device}"
            )
        table = Table(box=None, header_style="dim", title=title, title_justify="left")
        table.add_column("")
        parts = tuple(self.rows[0].ways["ready"].summary()) if self.rows else ()
        ways = tuple(self.rows[0].ways) if self.rows else ()
        for name in (*(f"{part}, ms" for part in parts), *(f"images/s, {way}" for way in ways)):
            table.add_column(name, justify="right")
        for row in self.rows:
            summary = row.ways["ready"].summary()
            times = (f"{1000 * summary[part]['median']:.2f}" for part in parts)
            table.add_row(_name(row), *times, *(f"{row.images_per_second(way):,.0f}" for way in ways))
        return [table, *left_out_tables(self.left_out)]

    def figures(self) -> list[Figure]:
        """Images a second with the pictures ready."""
        figures = []
        for row in self.rows:
            rate = row.images_per_second("ready")
            figures.append(Figure(f"training, images/s, {_name(row)}, pictures ready", f"{rate:,.0f}", rate))
        return figures

    def problems(self) -> list[str]:
        """None."""
        return []


def measure_steps(options: GpuOptions, turn: Turn) -> StepsReport:
    """Time steps of the paper's run on CUB-200-2011, on made pictures. MissingError without what training needs."""
    try:
        from queryopt.bench.speed.train_step import made_images, measure_step
        from queryopt.train.presets import preset_config
    except ImportError as error:
        raise MissingError(f"the packages of training ({error}): {install_extra('train')}") from None
    folder = options.folder / "steps"
    folder.mkdir()
    images = made_images(folder)
    preset = "tiny" if options.rehearse else "paper-cub200"
    rows: list[StepSpeed] = []
    left_out: list[tuple[str, str]] = []
    took = 0.0
    for amp, channels_last in _WAYS[:1] if options.rehearse else _WAYS:
        name = f"{amp}{', channels last' if channels_last else ''}"
        if rows and not turn.has(took, name):
            continue
        before = turn.spent
        config = preset_config(preset, device=options.device, amp=amp, channels_last=channels_last)
        steps, rounds = (1, 1) if options.rehearse else (_STEPS, _ROUNDS)
        try:
            rows.append(measure_step(config, images, steps=steps, rounds=rounds))
        except (QueryOptError, RuntimeError) as error:
            left_out.append((name, reason_of(error)))
            turn.log(f"without {name}: {left_out[-1][1]}")
            continue
        took = turn.spent - before
        turn.log(f"{_name(rows[-1])}: {rows[-1].images_per_second('ready'):,.0f} images/s")
        turn.keep(StepsReport(tuple(rows), tuple(left_out)))
    if not rows:
        raise QueryOptError("; ".join(f"{name}: {reason}" for name, reason in left_out))
    return StepsReport(tuple(rows), tuple(left_out))


def _name(row: "StepSpeed") -> str:
    precision = "fp32" if row.amp == "none" else row.amp
    return precision + (", channels last" if row.channels_last else "")
