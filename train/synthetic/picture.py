"""One picture of one bird: drawn with Pillow at several times its size, scaled down, shaded and lit with NumPy.

A bird is drawn in coordinates of its own: facing right, x to the right, y down; from breast to rump it is about 0.8
units long. A pose lays it into the picture. Everything random comes from the generator that is handed in, so an equal
generator gives an equal picture.
"""

import colorsys
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.train.synthetic.attributes import Bird
from queryopt.train.synthetic.scenery import Branch, Colour, Points, background, mix

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["draw_bird"]

_PLUMAGE: dict[str, Colour] = {
    "green": (78, 136, 56),
    "blue": (46, 100, 200),
    "brown": (136, 84, 48),
    "grey": (134, 140, 150),
    "white": (242, 238, 226),
    "yellow": (246, 206, 44),
    "orange": (234, 122, 40),
    "black": (34, 32, 36),
    "red": (210, 34, 38),
}
_BEAK: dict[str, Colour] = {"dark": (50, 46, 48), "orange": (248, 154, 32)}
_LEGS: dict[str, Colour] = {"dark": (58, 50, 48), "red": (222, 62, 48)}
_SHADOW: Colour = (16, 18, 28)
_LIGHT: Colour = (255, 250, 238)

# The outline from the beak's root over the crown, the back, the tail's root, the belly and the breast to the chin.
_BODY = np.array(
    [
        (0.385, -0.315),
        (0.34, -0.395),
        (0.25, -0.425),
        (0.155, -0.385),
        (0.09, -0.29),
        (-0.02, -0.19),
        (-0.18, -0.105),
        (-0.34, 0.005),
        (-0.43, 0.075),
        (-0.415, 0.13),
        (-0.29, 0.185),
        (-0.1, 0.245),
        (0.1, 0.215),
        (0.25, 0.105),
        (0.325, -0.04),
        (0.355, -0.17),
        (0.385, -0.245),
    ]
)
# How far each of those points follows the head when it nods.
_NOD = np.array([1, 1, 1, 1, 0.6, 0.15, 0, 0, 0, 0, 0, 0, 0, 0.05, 0.35, 0.8, 1])
_NECK = np.array([0.2, -0.2])

_BREAST = np.array(
    [
        (0.46, -0.27),
        (0.335, -0.235),
        (0.25, -0.15),
        (0.2, -0.03),
        (0.06, 0.07),
        (-0.14, 0.11),
        (-0.36, 0.12),
        (-0.36, 0.34),
        (0.1, 0.36),
        (0.46, 0.2),
    ]
)
_BAND = np.array(
    [
        (0.46, -0.16),
        (0.32, -0.12),
        (0.22, -0.1),
        (0.08, -0.13),
        (0.08, -0.03),
        (0.2, -0.01),
        (0.32, -0.035),
        (0.46, -0.09),
    ]
)
_CAP = np.array(
    [
        (0.43, -0.335),
        (0.36, -0.325),
        (0.27, -0.345),
        (0.17, -0.31),
        (0.07, -0.25),
        (0.0, -0.34),
        (0.2, -0.5),
        (0.42, -0.46),
    ]
)
_CREST = np.array(
    [
        (0.37, -0.35),
        (0.335, -0.43),
        (0.26, -0.53),
        (0.15, -0.61),
        (0.0, -0.64),
        (0.07, -0.54),
        (0.025, -0.51),
        (0.095, -0.43),
        (0.08, -0.31),
        (0.22, -0.35),
    ]
)
_WING = np.array(
    [
        (0.155, -0.135),
        (0.165, -0.06),
        (0.09, 0.035),
        (-0.06, 0.09),
        (-0.24, 0.12),
        (-0.44, 0.165),
        (-0.52, 0.16),
        (-0.4, 0.055),
        (-0.2, -0.075),
        (-0.02, -0.165),
        (0.09, -0.175),
    ]
)
_FLIGHT_FEATHERS = np.array(
    [
        [(-0.1, -0.06), (-0.3, 0.03), (-0.49, 0.14)],
        [(-0.1, -0.01), (-0.28, 0.065), (-0.46, 0.15)],
        [(-0.1, 0.04), (-0.24, 0.09), (-0.4, 0.15)],
    ]
)
_WING_BARS = np.array([[(0.075, -0.2), (0.04, -0.06), (0.06, 0.08)], [(-0.045, -0.19), (-0.085, -0.04), (-0.07, 0.11)]])
_BEAK_ROOT = np.array([0.375, -0.283])
_EYE = np.array([0.292, -0.3])
_HIPS = np.array([(0.0, 0.2), (-0.09, 0.2)])
_TAIL_ROOT = np.array([-0.34, 0.075])
_BEAK_LENGTH = {"short": 0.125, "long": 0.34}
_BEAK_DEPTH = {"short": 0.046, "long": 0.036}
_TAIL_LENGTH = {"short": 0.24, "long": 0.6}


def draw_bird(bird: Bird, size: int, rng: np.random.Generator) -> "Image.Image":
    """A picture of a bird with these attributes: RGB [size, size].

    What varies and means nothing: facing, tilt, nod, build, scale, place, the hue and strength of the colours, the
    light's direction, colour and strength, background, branch, leaves and grain.
    """
    from PIL import Image

    oversampling = 4 if size <= 96 else 3 if size <= 192 else 2
    side = size * oversampling
    shape = _Shape(bird, rng)
    scene = background(size, rng).resize((side, side), Image.Resampling.BILINEAR)
    drawing = _Drawing(scene, _Pose(shape, side, rng))
    _draw_perch_and_legs(drawing, bird, shape, rng)
    _draw_plumage(drawing, bird, shape, _Tint(rng), rng)
    return _light(drawing, oversampling, rng)


class _Shape:
    """The outlines of one bird in its own coordinates, bent by chance."""

    def __init__(self, bird: Bird, rng: np.random.Generator) -> None:
        self._turn = _rotation(rng.uniform(-0.22, 0.22))
        body = _BODY + (self.head(_BODY) - _BODY) * _NOD[:, None]
        low = _BODY[:, 1] > 0.09
        body[low, 1] = 0.09 + (body[low, 1] - 0.09) * rng.uniform(0.9, 1.12)
        self.body = _smooth(body)
        self.crest = _smooth(self.head(_CREST))
        tip = _BEAK_LENGTH[bird["beak_length"]] * rng.uniform(0.94, 1.06)
        depth = _BEAK_DEPTH[bird["beak_length"]]
        self.beak = self.head(_BEAK_ROOT + np.array([(0, -depth), (tip, 0.018), (0.005, depth), (0, 0.004)]))
        """Root above, tip, root below, middle of the root."""
        droop = rng.uniform(0.1, 0.42)
        along = (
            np.array([-math.cos(droop), math.sin(droop)]) * _TAIL_LENGTH[bird["tail_length"]] * rng.uniform(0.92, 1.08)
        )
        across = np.array([math.sin(droop), math.cos(droop)])
        spread = rng.uniform(0.05, 0.075)
        self.tail = _TAIL_ROOT + np.array(
            [-0.06 * across, along - spread * across, along * 0.92, along + spread * across, 0.06 * across]
        )
        """Root above, tip above, notch, tip below, root below."""
        self.leg_length = rng.uniform(0.15, 0.21)

    def head(self, points: Points) -> Points:
        """Where points of the head (an array that ends in 2) are after its nod."""
        moved: Points = (points - _NECK) @ self._turn.T + _NECK
        return moved


class _Pose:
    """From a bird's coordinates to pixels of the drawing."""

    def __init__(self, shape: _Shape, side: int, rng: np.random.Generator) -> None:
        facing = 1 if rng.random() < 0.5 else -1
        self._matrix = _rotation(rng.uniform(-0.3, 0.2)) * np.array([[facing], [1]])
        extent = np.concatenate([shape.body, shape.tail, shape.crest, shape.beak]) @ self._matrix.T
        low, high = extent.min(0), extent.max(0)
        high[1] = max(high[1], 0.2 + shape.leg_length)
        self.unit = min(side * rng.uniform(0.52, 0.72), 0.94 * side / float((high - low).max()))
        """Pixels a unit."""
        free = side - self.unit * (high - low)
        self._origin = free * rng.uniform(0.15, 0.85, 2) - self.unit * low

    def __call__(self, points: npt.ArrayLike) -> Points:
        """Pixels of points of the bird (an array that ends in 2)."""
        pixels: Points = np.asarray(points, np.float64) @ self._matrix.T * self.unit + self._origin
        return pixels


class _Drawing:
    """The picture while it is several times its size, and the mask of what is round (for shading)."""

    def __init__(self, image: "Image.Image", pose: _Pose) -> None:
        from PIL import Image, ImageDraw

        self.image = image
        self.pose = pose
        self.round = Image.new("L", image.size)
        self._draw = ImageDraw.Draw(image)

    def mask(self, points: Points, within: "Image.Image | None" = None, blur: float = 0.0) -> "Image.Image":
        """The inside of an outline of the bird, softened by `blur` units, cut to `within`: mode L."""
        from PIL import Image, ImageChops, ImageDraw, ImageFilter

        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(_flat(self.pose(points)), fill=255)
        if blur:
            mask = mask.filter(ImageFilter.BoxBlur(blur * self.pose.unit))
        return mask if within is None else ImageChops.multiply(mask, within)

    def paint(self, mask: "Image.Image", colour: Colour, opacity: float = 1.0) -> None:
        """Colour what a mask covers."""
        self.image.paste(colour, mask=mask if opacity == 1 else mask.point([round(v * opacity) for v in range(256)]))

    def raise_up(self, mask: "Image.Image") -> None:
        """Let what a mask covers be shaded as round."""
        self.round.paste(255, mask=mask)

    def pixels(self, points: Points, colour: Colour) -> None:
        """Fill an outline given in pixels."""
        self._draw.polygon(_flat(points), fill=colour)

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill an outline of the bird."""
        self._draw.polygon(_flat(self.pose(points)), fill=colour)

    def line(self, pixels: Points, colour: Colour, width: float) -> None:
        """A line through points given in pixels; its width in units of the bird."""
        self._draw.line(_flat(pixels), fill=colour, width=max(1, round(width * self.pose.unit)), joint="curve")

    def disc(self, centre: npt.ArrayLike, radius: float, colour: Colour) -> None:
        """A disc; centre and radius in units of the bird."""
        x, y = self.pose(centre)
        r = radius * self.pose.unit
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


class _Tint:
    """How this one bird's colours differ from its class's."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._hue = rng.uniform(-0.022, 0.022)
        self._saturation = rng.uniform(0.82, 1.1)
        self._value = rng.uniform(0.88, 1.08)

    def __call__(self, colour: Colour) -> Colour:
        hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
        changed = ((hue + self._hue) % 1, min(1, saturation * self._saturation), min(1, value * self._value))
        red, green, blue = (round(255 * channel) for channel in colorsys.hsv_to_rgb(*changed))
        return red, green, blue


def _draw_perch_and_legs(drawing: _Drawing, bird: Bird, shape: _Shape, rng: np.random.Generator) -> None:
    pose = drawing.pose
    hips = pose(_HIPS)
    ankle = hips + pose.unit * np.array([rng.uniform(-0.03, 0.03), shape.leg_length])
    middle = ankle.mean(0)
    branch = Branch(drawing.image.width, middle[0], middle[1], pose.unit * rng.uniform(0.07, 0.12), rng)
    for points, colour in [*branch.strips(), *branch.leaves()]:
        drawing.pixels(points, colour)
    colour = _LEGS[bird["leg_colour"]]
    toe = 0.055 * pose.unit
    for far, hip, foot in ((1, hips[1], ankle[1]), (0, hips[0], ankle[0])):
        shade = mix(colour, _SHADOW, 0.3 * far)
        x, y = foot[0], branch.height(foot[0])
        drawing.line(np.array([hip, (x, y)]), shade, 0.032)
        for step in (-1, -0.1, 1):
            end = x + step * toe
            drawing.line(np.array([(x, y), (end, branch.height(end) + 0.35 * toe)]), shade, 0.024)


def _draw_plumage(drawing: _Drawing, bird: Bird, shape: _Shape, tint: _Tint, rng: np.random.Generator) -> None:
    back, breast = tint(_PLUMAGE[bird["back_colour"]]), tint(_PLUMAGE[bird["breast_colour"]])
    cap = back if bird["crown_colour"] == "plain" else tint(_PLUMAGE[bird["crown_colour"]])
    dark = mix(back, _SHADOW, 0.32)

    tail = drawing.mask(shape.tail)
    drawing.raise_up(tail)
    drawing.paint(tail, mix(back, _SHADOW, 0.2))
    for end in (shape.tail[[1, 2]].mean(0), shape.tail[[2, 3]].mean(0)):
        drawing.line(drawing.pose([_TAIL_ROOT, end]), mix(back, _SHADOW, 0.45), 0.012)
    if bird["crown_shape"] == "crested":
        crest = drawing.mask(shape.crest)
        drawing.raise_up(crest)
        drawing.paint(crest, cap)

    body = drawing.mask(shape.body)
    drawing.raise_up(body)
    drawing.paint(body, back)
    front = drawing.mask(_smooth(_BREAST), body, blur=0.02)
    drawing.paint(front, breast)
    if bird["belly_spots"] == "present":
        _draw_spots(drawing, front, rng)
    if bird["breast_band"] == "present":
        drawing.paint(drawing.mask(_smooth(_BAND), body, blur=0.008), (38, 34, 36))
    if bird["crown_colour"] != "plain":
        drawing.paint(drawing.mask(_smooth(shape.head(_CAP)), body, blur=0.008), cap)

    _draw_wing(drawing, bird, body, back, dark)
    _draw_beak(drawing, _BEAK[bird["beak_colour"]], shape.beak)
    _draw_eye(drawing, shape, ring=bird["eye_ring"] == "present")


def _draw_spots(drawing: _Drawing, front: "Image.Image", rng: np.random.Generator) -> None:
    from PIL import Image, ImageChops, ImageDraw

    spots = Image.new("L", drawing.image.size)
    draw = ImageDraw.Draw(spots)
    for row, y in enumerate(np.arange(-0.1, 0.25, 0.075)):
        for x in np.arange(-0.3 + 0.05 * (row % 2), 0.4, 0.1):
            centre = drawing.pose(np.array([x, y]) + rng.uniform(-0.018, 0.018, 2))
            rx, ry = drawing.pose.unit * rng.uniform(0.02, 0.03) * np.array([0.85, 1.15])
            draw.ellipse((centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry), fill=235)
    # Only where the breast's colour is full: a spot that is cut in half at its edge looks like dirt.
    drawing.paint(ImageChops.multiply(spots, front), (44, 36, 34))


def _draw_wing(drawing: _Drawing, bird: Bird, body: "Image.Image", back: Colour, dark: Colour) -> None:
    outline = _smooth(_WING)
    drawing.paint(drawing.mask(outline + np.array([0.0, 0.035]), body, blur=0.03), _SHADOW, 0.35)
    wing = drawing.mask(outline)
    drawing.raise_up(wing)
    drawing.paint(wing, mix(back, _SHADOW, 0.14))
    drawing.paint(
        drawing.mask(_smooth(_WING * 0.62 + np.array([0.045, -0.045])), wing, blur=0.02), mix(back, _LIGHT, 0.12)
    )
    for feather in _FLIGHT_FEATHERS:
        drawing.line(drawing.pose(feather), dark, 0.014)
    if bird["wing_bars"] == "present":
        for bar in _WING_BARS:
            edge = np.array([0.026, 0.0])
            drawing.paint(drawing.mask(np.concatenate([bar - edge, bar[::-1] + edge]), wing), (246, 244, 236))


def _draw_beak(drawing: _Drawing, colour: Colour, beak: Points) -> None:
    above, tip, below, middle = beak
    drawing.fill(np.array([middle, tip, below]), mix(colour, _SHADOW, 0.3))
    drawing.fill(np.array([above, above * 0.45 + tip * 0.55 + (0, -0.008), tip, middle]), colour)


def _draw_eye(drawing: _Drawing, shape: _Shape, ring: bool) -> None:
    eye = shape.head(_EYE)
    if ring:
        drawing.disc(eye, 0.058, (250, 248, 240))
    drawing.disc(eye, 0.033, (18, 16, 18))
    drawing.disc(eye + np.array([0.01, -0.013]), 0.011, (255, 255, 255))


def _light(drawing: _Drawing, oversampling: int, rng: np.random.Generator) -> "Image.Image":
    """Scale down, shade what is round as if it were, light the whole, add grain."""
    from PIL import Image, ImageFilter

    unit = drawing.pose.unit / oversampling
    pixels = np.asarray(drawing.image.reduce(oversampling), np.float32) / 255  # [s x s x 3]
    mask = drawing.round.reduce(oversampling)
    size = mask.width
    # A blurred silhouette is a height map: steep at the rim, flat in the middle.
    height = sum(
        np.asarray(mask.filter(ImageFilter.GaussianBlur(unit * reach)), np.float32) / 255 * reach
        for reach in (0.035, 0.1)
    )
    down, right = np.gradient(height)
    angle = rng.uniform(-1.0, 1.0)
    lit = (down * math.cos(angle) - right * math.sin(angle)) * unit
    down_the_bird = np.linspace(0.06, -0.06, size, dtype=np.float32)[:, None]
    feathers = rng.normal(0, 0.035, (size, size)).astype(np.float32)
    shade = np.clip(1.0 + 1.1 * lit + down_the_bird + feathers, 0.45, 1.5)
    covered = np.asarray(mask, np.float32)[..., None] / 255
    pixels = pixels * (1 + covered * (shade[..., None] - 1))

    colour = 1 + rng.uniform(-0.05, 0.05, 3)
    gain = rng.uniform(0.78, 1.16)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    vignette = 1 - rng.uniform(0, 0.16) * (x * x + y * y)
    pixels = pixels * (gain * colour).astype(np.float32) * vignette[..., None]
    pixels += rng.normal(0, rng.uniform(0.003, 0.013), pixels.shape).astype(np.float32)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _rotation(angle: float) -> npt.NDArray[np.float64]:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _smooth(points: Points, steps: int = 6) -> Points:
    """A closed Catmull-Rom curve through the points: [n * steps, 2]."""
    before, after, later = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (before, points, after, later))
    curve = p1 + t / 2 * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.reshape(-1, 2)


def _flat(points: Points) -> list[float]:
    return points.ravel().tolist()
