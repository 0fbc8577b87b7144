"""How far apart the classes' codes lie, against the Welch bound (Figure 3)."""

import numpy as np

from queryopt.bench.figure import new_figure
from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study
from queryopt.bench.quality.welch import (
    ClassCodes,
    WelchReport,
    class_means,
    cosine_matrix,
    solved_class_codes,
    welch_report,
)
from queryopt.text import counted

__all__ = ["class_codes"]


def class_codes(study: Study) -> Section:
    """Cosines between the classes' codes, those that were solved and the network's own."""
    if len(np.unique(study.gallery.labels)) < 2:
        raise LeftOutError("one class alone: there is nothing to be apart from")
    codes_of: dict[str, ClassCodes] = {}
    if study.run is not None and study.solved is not None:
        codes_of["solved, in training"] = solved_class_codes(study.run.folder, study.gallery_images)
    assert study.gallery.logits is not None
    means = class_means(np.tanh(study.gallery.logits), study.gallery.labels)
    codes_of["the network's"] = ClassCodes(means, study.bits, 1, "network")
    reports = {name: welch_report(study.model.name, study.model.method, codes) for name, codes in codes_of.items()}
    own = reports["the network's"]
    finding = (
        f"{counted(own.distinct, 'different code', 'different codes')} for {own.code.classes} classes; the cosines "
        f"between the network's class codes have a root mean square of {own.code.rms:.3f}, where {own.code.bound:.3f} "
        f"is the least that {study.bits} dimensions allow."
    )
    rows = []
    for name, report in reports.items():
        for part, what in _parts(report):
            value = getattr(report, part)
            cells = [f"{value.bound:.3f}", f"{value.rms:.3f}", f"{value.largest:.3f}"]
            rows.append((f"{name}, {what}", f"{value.dimensions}", f"{value.classes}", *cells))
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    bins = np.linspace(0, 1, 41).tolist()
    for n, (name, codes) in enumerate(codes_of.items()):
        values = np.abs(cosine_matrix(codes.values[:, : codes.bits]))[np.triu_indices(len(codes.values), 1)]
        axes.hist(values, bins, alpha=0.55, color=f"C{n}", label=f"{name}, {codes.bits} bits")
        if codes.branches > 1:
            values = np.abs(cosine_matrix(codes.values))[np.triu_indices(len(codes.values), 1)]
            axes.hist(values, bins, histtype="step", color=f"C{n}", linewidth=1.4, label=f"{name}, all columns")
    axes.axvline(own.code.bound, color="C7", linestyle="--", linewidth=1.2, label="Welch bound of the code")
    axes.set(xlabel="|cosine| between two classes' codes", ylabel="pairs of classes", xlim=(0, 1))
    axes.legend()
    shown = {
        "figure": study.figures.embed("class-codes", figure),
        "own": own.code,
        "rows": rows,
        "why_not_solved": "" if "solved, in training" in codes_of else study.why_not_solved,
    }
    return Section("class-codes", "Class codes and the Welch bound (Figure 3)", finding, shown)


def _parts(report: WelchReport) -> list[tuple[str, str]]:
    code = [("code", "the code's bits")]
    return [("all_columns", f"all columns, N = {report.branches}"), *code] if report.branches > 1 else code
