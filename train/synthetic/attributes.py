"""The visual attributes of the generated birds, and which combinations of them are the classes."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from queryopt.errors import UsageError
from queryopt.train.augment import sample_rng

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

_LARGE = frozenset(
    {
        "crown_shape",
        "crown_colour",
        "back_colour",
        "breast_colour",
        "breast_band",
        "belly_spots",
        "wing_bars",
        "tail_length",
    }
)
_STREAM = 17


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
    rng = sample_rng(seed, 0, 0, 0, stream=_STREAM)
    birds: list[dict[str, str]] = []
    while len(birds) < count:
        relative = len(birds) % 3 == 2
        bird = _relative(birds[rng.integers(len(birds))], rng) if relative else _any_bird(rng)
        if all(_tellable(bird, other) for other in birds):
            birds.append(bird)
    return tuple(birds)


def class_name(number: int, bird: Bird) -> str:
    """A class's folder: its number and what strikes the eye, as in `007.crested_blue_red_capped_white_breasted`."""
    crest = "crested_" if bird["crown_shape"] == "crested" else ""
    cap = "" if bird["crown_colour"] == "plain" else f"{bird['crown_colour']}_capped_"
    return f"{number:03d}.{crest}{bird['back_colour']}_{cap}{bird['breast_colour']}_breasted"


def _any_bird(rng: np.random.Generator) -> dict[str, str]:
    return {name: values[rng.integers(len(values))] for name, values in ATTRIBUTES.items()}


def _relative(bird: Bird, rng: np.random.Generator) -> dict[str, str]:
    changed = dict(bird)
    for i in rng.choice(len(ATTRIBUTES), 2, replace=False):
        name, values = list(ATTRIBUTES.items())[i]
        others = [value for value in values if value != bird[name]]
        changed[name] = others[rng.integers(len(others))]
    return changed


def _tellable(one: Bird, other: Bird) -> bool:
    return distance(one, other) >= 2 and any(one[name] != other[name] for name in _LARGE)
