"""The visual attributes of the generated birds, and which combinations of them are the classes."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.train.draws import Stream, sample_rng

__all__ = ["ATTRIBUTES", "MAX_CLASSES", "Bird", "choose_classes", "class_name", "distance"]

Bird: TypeAlias = Mapping[str, str]
"""What a class looks like: attribute -> value, one of ATTRIBUTES[attribute]."""

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "crown_shape": ("flat", "crested"),
    "crown_colour": ("plain", "black", "red", "yellow"),
    "back_colour": ("green", "blue", "brown", "grey"),
    "breast_colour": ("white", "yellow", "orange"),
    "breast_band": ("absent", "present"),
    "belly_spots": ("absent", "present"),
    "wing_bars": ("absent", "present"),
    "tail_length": ("short", "long"),
    "beak_length": ("short", "long"),
    "beak_colour": ("dark", "orange"),
    "leg_colour": ("dark", "red"),
    "eye_ring": ("absent", "present"),
}
"""The attributes and their values. A plain crown has the back's colour."""

MAX_CLASSES = 1000

_CHOICES = np.array([len(values) for values in ATTRIBUTES.values()])
_SMALL = frozenset({"beak_length", "beak_colour", "leg_colour", "eye_ring"})
_LARGE = np.array([name not in _SMALL for name in ATTRIBUTES])
"""Attributes that can be seen in a picture of 64 pixels at a glance."""


def distance(one: Bird, other: Bird) -> int:
    """In how many attributes two birds differ."""
    return sum(one[name] != other[name] for name in ATTRIBUTES)


def choose_classes(count: int, seed: int) -> tuple[dict[str, str], ...]:
    """`count` combinations of attributes, the same for every `count` as far as they go.

    Any two classes differ in two attributes or more, one of them large enough to be seen in a small picture. Every
    third class is such a near relative of an earlier one: what makes the set fine-grained.
    """
    if not 2 <= count <= MAX_CLASSES:
        raise UsageError(f"classes is {count}: 2 to {MAX_CLASSES} can be generated")
    rng = sample_rng(seed, 0, 0, 0, Stream.BIRD_CLASSES)
    birds = np.zeros((0, len(ATTRIBUTES)), np.int64)  # [classes x attributes], positions among the values
    while len(birds) < count:
        bird = rng.integers(_CHOICES)
        if len(birds) % 3 == 2:
            bird = _relative(birds[rng.integers(len(birds))], rng)
        differs = birds != bird
        if np.all((differs.sum(1) >= 2) & differs[:, _LARGE].any(1)):
            birds = np.vstack([birds, bird])
    return tuple(
        {name: values[i] for (name, values), i in zip(ATTRIBUTES.items(), bird, strict=True)} for bird in birds.tolist()
    )


def class_name(number: int, bird: Bird) -> str:
    """A class's folder: its number and what strikes the eye, as in `007.crested_blue_red_capped_white_breasted`."""
    crest = "crested_" if bird["crown_shape"] == "crested" else ""
    cap = "" if bird["crown_colour"] == "plain" else f"{bird['crown_colour']}_capped_"
    return f"{number:03d}.{crest}{bird['back_colour']}_{cap}{bird['breast_colour']}_breasted"


def _relative(bird: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The bird with two attributes changed: [attributes]."""
    changed = bird.copy()
    for attribute in rng.choice(len(bird), 2, replace=False):
        changed[attribute] = (bird[attribute] + rng.integers(1, _CHOICES[attribute])) % _CHOICES[attribute]
    return changed
