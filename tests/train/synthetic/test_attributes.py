import itertools
from collections import Counter

import pytest

from queryopt.errors import UsageError
from queryopt.train.synthetic.attributes import ATTRIBUTES, MAX_CLASSES, choose_classes, class_name, distance


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_are_fine_grained_and_can_be_told_apart(seed):
    birds = choose_classes(32, seed)
    distances = [distance(one, other) for one, other in itertools.combinations(birds, 2)]
    assert min(distances) == 2
    assert distances.count(2) >= 5
    assert sum(distances) / len(distances) > 5
    # Beak, legs and eye alone are too small to be all that differs.
    small = {"beak_length", "beak_colour", "leg_colour", "eye_ring"}
    for one, other in itertools.combinations(birds, 2):
        assert {name for name in ATTRIBUTES if one[name] != other[name]} - small


def test_every_value_is_common():
    birds = choose_classes(100, 0)
    for name, values in ATTRIBUTES.items():
        counts = Counter(bird[name] for bird in birds)
        assert set(counts) == set(values)
        assert min(counts.values()) >= 100 / len(values) / 2.5


def test_more_classes_begin_with_the_fewer():
    assert choose_classes(50, 3)[:32] == choose_classes(32, 3)
    assert choose_classes(32, 3) != choose_classes(32, 4)


def test_the_most_classes_can_be_found():
    birds = choose_classes(MAX_CLASSES, 0)
    assert len({tuple(bird.values()) for bird in birds}) == MAX_CLASSES


@pytest.mark.parametrize("count", [1, MAX_CLASSES + 1])
def test_numbers_of_classes_out_of_range(count):
    with pytest.raises(UsageError, match=f"classes is {count}"):
        choose_classes(count, 0)


def test_names_say_what_strikes_the_eye():
    bird = {name: values[0] for name, values in ATTRIBUTES.items()}
    assert class_name(7, bird) == "007.green_white_breasted"
    bird |= {"crown_shape": "crested", "crown_colour": "red", "back_colour": "blue"}
    assert class_name(12, bird) == "012.crested_blue_red_capped_white_breasted"
