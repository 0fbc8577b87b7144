"""What lies in a folder of class folders, and what of it a person should hear of."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from queryopt.images import HEIF_SUFFIXES, NO_HEIF, failure_lines, find_images
from queryopt.labels import LabelRule, sub_folders
from queryopt.text import counted, display_path, listed, listed_paths

__all__ = ["FolderSurvey", "survey_folder"]

_NAMED_CLASSES = 3


@dataclass(frozen=True)
class FolderSurvey:
    """The files of a folder by the label rule. Paths are relative to the root, by os.fsdecode.

    labels: of every picture that has one, by its path, sorted bytewise. loose: pictures that have none. others: files
    that are no pictures by their names. empty: class folders without pictures. nested: labels whose folders hold
    further ones with pictures, and the names of these. deeper: how many classes there were if the rule went one deeper.
    """

    root: Path
    rule: LabelRule
    labels: dict[str, str]
    loose: list[str]
    others: list[str]
    empty: list[str]
    nested: dict[str, list[str]]
    deeper: int

    def warnings(self) -> list[str]:
        """A sentence each on what may not be as it was meant."""
        shown = os.path.join(display_path(self.root), "")
        said = []
        if self.nested:
            folders = [f"{display_path(name)}/ ({listed_paths(inner)})" for name, inner in self.nested.items()]
            holds = "holds" if len(folders) == 1 else "hold"
            said.append(
                f"nested folders: {listed(folders, _NAMED_CLASSES)} {holds} folders of their own, which are no "
                f"classes; with --label-depth {self.rule.depth + 1} there would be {self.deeper:,} classes"
            )
        if self.loose:
            count = counted(len(self.loose), "picture lies", "pictures lie")
            said.append(f"{count} in no class's folder of {shown}: left out: {listed_paths(self.loose)}")
        if self.empty:
            count = counted(len(self.empty), "class", "classes")
            said.append(f"{shown}: {count} without pictures, passed over: {listed_paths(self.empty)}")
        if importlib.util.find_spec("pillow_heif") is None:
            lacking = [path for path in self.labels if path.lower().endswith(HEIF_SUFFIXES)]
            said += failure_lines(dict.fromkeys(lacking, NO_HEIF))
        return said


def survey_folder(root: Path, rule: LabelRule) -> FolderSurvey:
    """Look through a folder. InputError where it can't be read; sub-folders that can't be are logged as warnings."""
    labels: dict[str, str] = {}
    loose: list[str] = []
    others: list[bytes] = []
    folders: dict[bytes, str] = {}
    deeper = LabelRule(rule.depth + 1, rule.parts)
    for path in find_images(root, on_other=others.append):
        label, inner = rule.name(path), deeper.label_of(path)
        if label is None or inner is None:
            loose.append(os.fsdecode(path))
        else:
            labels[os.fsdecode(path)] = folders[inner] = label
    nested: dict[str, list[str]] = {}
    for inner, label in folders.items():
        if inner != os.fsencode(label):
            nested.setdefault(label, []).append(os.fsdecode(inner.rpartition(b"/")[2]))
    return FolderSurvey(
        root, rule, labels, loose, [*map(os.fsdecode, others)], _empty(root, rule, labels), nested, len(folders)
    )


def _empty(root: Path, rule: LabelRule, labels: dict[str, str]) -> list[str]:
    """Folders of the first level below the root (or below its parts) without a picture at any depth."""
    above = [os.path.join(os.fsdecode(part), "") for part in sorted(rule.parts)] or [""]
    folders = [part + name for part in above for name in sub_folders(root / part)]
    used = {"/".join(path.split("/")[: 2 if rule.parts else 1]) for path in labels}
    return [name for name in folders if name not in used]
