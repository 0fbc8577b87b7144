import numpy as np
import pytest

from queryopt.train.draws import sample_rng
from queryopt.train.synthetic.attributes import ATTRIBUTES
from queryopt.train.synthetic.picture import draw_bird

PLAIN = {name: values[0] for name, values in ATTRIBUTES.items()}
CHANGES = [(name, value) for name, values in ATTRIBUTES.items() for value in values[1:]]


def picture(bird, number=0, size=64):
    return np.asarray(draw_bird(bird, size, sample_rng(0, 0, 0, number))).astype(int)


@pytest.mark.parametrize("size", [16, 64, 100, 200])
def test_size_and_mode(size):
    image = draw_bird(PLAIN, size, sample_rng(0, 0, 0, 0))
    assert image.mode == "RGB"
    assert image.size == (size, size)


def test_an_equal_generator_gives_an_equal_picture_and_another_one_does_not():
    assert (picture(PLAIN) == picture(PLAIN)).all()
    assert np.abs(picture(PLAIN) - picture(PLAIN, number=1)).mean() > 10


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_every_value_of_every_attribute_can_be_seen(name, value):
    # The same chance with one attribute changed: what differs is the attribute (and, where it changes the bird's
    # extent or draws more, the place).
    for number in range(3):
        changed = np.abs(picture(PLAIN, number) - picture(PLAIN | {name: value}, number)).max(2)
        assert (changed > 24).sum() >= 5


@pytest.mark.parametrize(
    ("name", "colours"),
    [("back_colour", ("green", "blue")), ("breast_colour", ("white", "yellow")), ("crown_colour", ("black", "red"))],
)
def test_colours_are_what_they_are_called(name, colours):
    """More of the picture is near the colour in the pictures whose attribute says so."""
    of = {"green": (78, 136, 56), "blue": (46, 100, 200), "white": (242, 238, 226), "yellow": (246, 206, 44)}
    of |= {"black": (34, 32, 36), "red": (210, 34, 38)}

    def share(value, colour):
        near = [np.abs(picture(PLAIN | {name: value}, i) - of[colour]).max(2) < 40 for i in range(8)]
        return np.mean(near)

    one, other = colours
    assert share(one, one) > share(other, one)
    assert share(other, other) > share(one, other)


def test_the_bird_is_inside_the_picture():
    """The border shows scenery alone: it is the same whatever the bird's colours."""
    for number in range(12):
        one = picture(PLAIN | {"back_colour": "blue", "breast_colour": "orange", "crown_colour": "red"}, number)
        other = picture(PLAIN | {"back_colour": "brown", "breast_colour": "white", "crown_colour": "black"}, number)
        differs = np.abs(one - other).max(2) > 6
        assert differs.any()
        assert not (differs[0].any())
        assert not (differs[-1].any())
        assert not (differs[:, 0].any())
        assert not (differs[:, -1].any())


def test_birds_face_both_ways():
    """With a red crown, most of the red is on the side that the bird faces."""
    bird = PLAIN | {"crown_colour": "red", "tail_length": "long", "back_colour": "grey"}
    sides = []
    for number in range(20):
        pixels = picture(bird, number)
        red = (pixels[..., 0] > 110) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
        if red.sum() > 10:
            sides.append(np.nonzero(red)[1].mean() > 32)
    assert len(sides) > 12
    assert 0.2 < np.mean(sides) < 0.8
