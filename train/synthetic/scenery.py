"""What is around a bird: an out-of-focus background, a branch, leaves. Pixels throughout, x to the right, y down."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Branch", "Colour", "Points", "background", "leaf_outline", "mix"]

Colour: TypeAlias = tuple[int, int, int]
"""sRGB, 0 to 255."""
Points: TypeAlias = npt.NDArray[np.float64]
"""[n, 2]: x and y."""

_BACKGROUND_SIZE = 96
"""It is out of focus: more pixels than these would show nothing more."""

# Two ends of a gradient, and what floats in it.
_SCENES: tuple[tuple[Colour, Colour, tuple[Colour, ...]], ...] = (
    ((150, 196, 226), (120, 158, 104), ((176, 206, 150), (96, 140, 92), (214, 228, 232))),
    ((112, 156, 82), (52, 88, 54), ((158, 190, 92), (38, 74, 50), (196, 206, 120))),
    ((206, 200, 164), (120, 124, 74), ((232, 220, 176), (96, 104, 62), (168, 160, 96))),
    ((96, 140, 136), (62, 84, 84), ((136, 178, 160), (48, 70, 76), (176, 196, 178))),
    ((188, 190, 214), (120, 132, 156), ((216, 214, 232), (100, 118, 128), (160, 176, 160))),
    ((222, 190, 148), (140, 104, 70), ((240, 214, 160), (170, 112, 64), (120, 110, 70))),
    ((128, 176, 196), (66, 112, 138), ((164, 206, 214), (52, 96, 112), (190, 216, 190))),
    ((176, 204, 150), (108, 150, 116), ((206, 224, 176), (80, 124, 92), (226, 214, 170))),
)
_BARK: tuple[Colour, ...] = ((92, 66, 48), (112, 88, 68), (74, 58, 50), (126, 108, 90))
_LEAVES: tuple[Colour, ...] = ((92, 140, 62), (66, 112, 58), (140, 160, 70), (176, 148, 64), (72, 126, 92))


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the one."""
    return (
        round(one[0] + (other[0] - one[0]) * share),
        round(one[1] + (other[1] - one[1]) * share),
        round(one[2] + (other[2] - one[2]) * share),
    )


def background(size: int, rng: np.random.Generator) -> "Image.Image":
    """A blurred scene, RGB [size, size]: a gradient with spots of light and with foliage, at two depths."""
    from PIL import Image, ImageDraw, ImageFilter

    grid = min(size, _BACKGROUND_SIZE)
    top, bottom, accents = _SCENES[rng.integers(len(_SCENES))]
    angle = rng.uniform(-0.6, 0.6)
    y, x = np.mgrid[0:grid, 0:grid] / grid - 0.5
    along = np.clip(0.5 + y * math.cos(angle) + x * math.sin(angle), 0, 1)[..., None]  # [grid x grid x 1]
    image = Image.fromarray((np.array(top) * (1 - along) + np.array(bottom) * along).astype(np.uint8))
    for depth, blur in enumerate((0.06, 0.02)):
        layer = image.copy()
        draw = ImageDraw.Draw(layer)
        for _ in range(int(rng.integers(6, 14))):
            colour = mix(accents[rng.integers(len(accents))], (top, bottom)[rng.integers(2)], rng.uniform(0, 0.5))
            centre = rng.uniform(0, grid, 2)
            if depth and rng.random() < 0.65:
                length = grid * rng.uniform(0.08, 0.26)
                outline = leaf_outline(centre, rng.uniform(0, 2 * math.pi), length, rng.uniform(0.25, 0.45))
                draw.polygon(list(map(tuple, outline.tolist())), fill=colour)
            else:
                reach = grid * rng.uniform(0.03, 0.09 if depth else 0.2) * rng.uniform(0.75, 1.25, 2)
                draw.ellipse((*(centre - reach), *(centre + reach)), fill=colour)
        layer = layer.filter(ImageFilter.GaussianBlur(grid * blur))
        image = Image.blend(image, layer, rng.uniform(0.65, 0.95))
    return image if grid == size else image.resize((size, size), Image.Resampling.BICUBIC)


def leaf_outline(base: npt.ArrayLike, angle: float, length: float, slenderness: float = 0.36) -> Points:
    """A leaf that grows from `base` in the direction `angle` (radians): [n, 2]."""
    t = np.linspace(0, 1, 9)
    half = slenderness / 2 * np.sin(np.pi * t**0.8) * (1 - 0.25 * t)
    along = np.concatenate([t, t[-2:0:-1]]) * length
    across = np.concatenate([half, -half[-2:0:-1]]) * length
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([along * cos - across * sin, along * sin + across * cos], 1) + np.asarray(base, np.float64)


class Branch:
    """A branch across the whole picture, and its leaves."""

    def __init__(self, size: int, x: float, y: float, thickness: float, rng: np.random.Generator) -> None:
        """Its upper edge passes through (x, y); `size` is the picture's side."""
        slope, bend = rng.uniform(-0.16, 0.16), rng.uniform(-0.1, 0.1)
        self._xs = np.linspace(-0.05 * size, 1.05 * size, 24)
        away = (self._xs - x) / size
        self._top = y + size * (slope * away + bend * away**2)
        self._thick = thickness * (1 + 0.16 * np.cumsum(rng.normal(0, 0.35, len(self._xs))).clip(-2, 2) - 0.25 * away)
        self._bark = mix(_BARK[rng.integers(len(_BARK))], _BARK[rng.integers(len(_BARK))], 0.5)
        self._leaf = _LEAVES[rng.integers(len(_LEAVES))]
        self._leaves = [
            (
                rng.uniform(0, 1),
                rng.choice((-1, 1)) * rng.uniform(0.4, 1.1),
                size * rng.uniform(0.08, 0.17),
                rng.uniform(-0.25, 0.25),
            )
            for _ in range(int(rng.integers(0, 5)))
        ]

    def height(self, x: float) -> float:
        """y of the upper edge at x."""
        return float(np.interp(x, self._xs, self._top))

    def strips(self) -> Iterator[tuple[Points, Colour]]:
        """Outlines to fill, in order: the wood from its shadow side to its lit edge."""
        for start, end, share, tone in (
            (0.0, 1.0, 0.45, (0, 0, 0)),
            (0.0, 0.72, 0.0, (0, 0, 0)),
            (0.06, 0.3, 0.35, (255, 240, 214)),
        ):
            upper, lower = self._top + start * self._thick, self._top + end * self._thick
            yield (
                np.stack([np.r_[self._xs, self._xs[::-1]], np.r_[upper, lower[::-1]]], 1),
                mix(self._bark, tone, share),
            )

    def leaves(self) -> Iterator[tuple[Points, Colour]]:
        """Outlines to fill, in order: each leaf, then its lit half."""
        for where, angle, length, shade in self._leaves:
            x = self._xs[0] + where * (self._xs[-1] - self._xs[0])
            y = self.height(x) + 0.5 * float(np.interp(x, self._xs, self._thick))
            heading = angle if shade > 0 else math.pi - angle
            outline = leaf_outline((x, y), heading, length)
            colour = mix(self._leaf, (255, 255, 220) if shade > 0 else (0, 20, 0), abs(shade))
            yield outline, colour
            yield np.r_[outline[:9], outline[:1]], mix(colour, (255, 255, 230), 0.16)
