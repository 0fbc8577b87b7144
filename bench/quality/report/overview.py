"""What the model is, what it reached, and how its training went."""

from typing import Any

from queryopt.bench.quality.pictures import about_run
from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study
from queryopt.text import counted, display_path

__all__ = ["configuration", "curves", "summary"]

_LEARNING = (
    "preset",
    "iterations",
    "epochs",
    "samples",
    "batch",
    "optimizer",
    "lr",
    "weight_decay",
    "schedule",
    "codes",
    "hold",
    "hold_solver",
    "gamma",
    "scale_gamma",
    "classification_weight",
    "validation_fraction",
    "weights",
    "seed",
)


def summary(study: Study) -> Section:
    """The figures that matter, at once."""
    deployed = study.deployed
    metrics, alone = deployed.metrics, study.evaluations["deployed, by distance"].metrics
    times = metrics.map / metrics.chance
    against = f"{times:.0f} times that of a random ranking" if times >= 1.5 else "about that of a random ranking"
    finding = (
        f"{counted(metrics.queries, 'test picture searches', 'test pictures search')} "
        f"{counted(deployed.gallery, 'picture', 'pictures')} of {counted(deployed.classes, 'class', 'classes')} with "
        f"codes of {study.bits} bits: mAP {metrics.map:.3f}, {against}."
    )
    values = {
        "mAP, as deployed": f"{metrics.map:.3f}",
        "mAP, by distance alone": f"{alone.map:.3f}",
        "worst to best order of ties": f"{alone.map_pessimistic:.3f}–{alone.map_optimistic:.3f}",
        "precision at 1": f"{metrics.precision_at[1]:.3f}",
        "mAP, ranked by logits": f"{study.evaluations['deployed, weighted'].metrics.map:.3f}",
    }
    if (paper := study.evaluations.get("paper")) is not None:
        values["mAP, paper's protocol"] = f"{paper.metrics.map:.3f}"
    if (unseen := study.evaluations.get("unseen classes")) is not None:
        values["mAP, unseen classes"] = f"{unseen.metrics.map:.3f}"
    for baseline in study.baselines:
        if baseline.part == "seen":
            values[f"mAP, {baseline.title}"] = f"{baseline.metrics.map:.3f}"
    values["mAP of a random ranking"] = f"{metrics.chance:.3f}"
    values["different codes in the gallery"] = f"{study.cards.distinct:,}"
    shown = {"figures": values, "failed": len(study.failed), "warnings": study.warnings}
    return Section("summary", "Summary", finding, shown)


def configuration(study: Study) -> Section:
    """What the model is and what it was trained with."""
    tables = {"Model": dict(study.model.facts())}
    tables["Model"] |= {
        "Data": display_path(study.source.data),
        "Gallery": f"{len(study.gallery.labels):,} pictures",
        "Queries": f"{len(study.queries.labels):,} pictures",
    }
    if study.run is None:
        finding = "An exported model, as it is deployed; how it was trained is not known from it."
    else:
        config = study.run.checkpoint.config
        about = about_run(study.run.folder)
        values = config.to_dict()
        values["gamma"] = f"{config.gamma:g}"
        if "gamma" in about:
            values["gamma"] += f" (as used: {about['gamma']:.3g})"
        learning = {name.replace("_", " "): _shown(values[name]) for name in _LEARNING if name in values}
        learning |= {f"{config.method}: {name}": f"{value:g}" for name, value in config.method_options.items()}
        tables["Training"] = learning
        if versions := about.get("versions"):
            made_with = {**versions, "platform": about.get("platform", ""), "threads": about.get("threads", "")}
            tables["Made with"] = {name: str(value) for name, value in made_with.items()}
        finding = (
            f"{config.method}, {study.bits} bits, trained for {counted(config.iterations, 'iteration', 'iterations')} "
            f"on {about.get('images', len(study.gallery_images)):,} pictures."
        )
    return Section("configuration", "Configuration", finding, {"tables": tables})


def curves(study: Study) -> Section:
    """Loss, validation mAP and learning rate over the run."""
    if study.run is None:
        raise LeftOutError("an exported model alone: the curves are in its run folder")
    from queryopt.train.plots import draw_curves
    from queryopt.train.runs import read_metrics

    lines = read_metrics(study.run.folder)
    if not lines:
        raise LeftOutError("the run folder has no metrics.jsonl, or an empty one")
    measured = [line for line in lines if "map" in line]
    last = lines[-1]
    finding = f"The loss fell from {lines[0]['loss']:.3g} to {last['loss']:.3g}"
    if measured:
        best = max(measured, key=lambda line: line["map"])
        finding += f"; validation mAP was best after iteration {best['outer'] + 1}, at {best['map']:.3f}"
    if (accuracy := _last(lines, "bit_accuracy")) is not None:
        finding += f"; in the end the network gave {100 * accuracy:.1f} % of the bits that it was taught"
    values = {"figure": study.figures.embed("curves", draw_curves(lines)), "distinct": _last(lines, "distinct_codes")}
    return Section("curves", "Training curves", finding + ".", values)


def _last(lines: list[dict[str, Any]], key: str) -> Any:
    return next((line[key] for line in reversed(lines) if key in line), None)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return display_path(str(value))
