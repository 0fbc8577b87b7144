"""The sections of a report, in their order. A new one is a function and a line here."""

from collections.abc import Callable
from typing import Final

from queryopt.bench.quality.report import attention, bits, features, geometry, landscape, overview, retrieval
from queryopt.bench.quality.report.figures import styled
from queryopt.bench.quality.report.page import LeftOutError, Report, Section
from queryopt.bench.quality.report.study import Study
from queryopt.text import display_path

__all__ = ["SECTIONS", "make_report"]

SECTIONS: Final[tuple[tuple[str, Callable[[Study], Section]], ...]] = (
    ("Summary", overview.summary),
    ("Retrieval", retrieval.protocols),
    ("Beside rankings without codes", retrieval.without_codes),
    ("Retrieved pictures", retrieval.examples),
    ("Classes", retrieval.classes),
    ("Confusion by Hamming ball", retrieval.balls),
    ("Bit cards", bits.bit_cards),
    ("Single bits", bits.bit_strips),
    ("Where the queries look", attention.attention_maps),
    ("Similarity of queries and features", features.query_similarity),
    ("Map of the features (t-SNE)", features.feature_map),
    ("Class codes and the Welch bound", geometry.class_codes),
    ("Training curves", overview.curves),
    ("Loss landscape", landscape.loss_landscape),
    ("Configuration", overview.configuration),
)
"""By the names that a section goes by where it is left out."""


def make_report(study: Study) -> Report:
    """All sections; those that make no sense here are named with the reason."""
    facts = {
        "Model": study.model.name,
        "Method": f"{study.model.method}, {study.bits} bits",
        "Data": display_path(study.source.data),
    }
    report = Report(f"{study.model.method}, {study.bits} bits", facts)
    if study.solved is None:
        report.left_out["Paper's protocol"] = study.why_not_solved
    with styled():
        for name, make in SECTIONS:
            study.out.log(f"section: {name}")
            try:
                report.sections.append(make(study))
            except LeftOutError as reason:
                report.left_out[name] = str(reason)
    return report
