import json
from dataclasses import replace

import numpy as np
import pytest

from queryopt.card import CARD_KEY, FORMAT_KEY, FORMAT_VERSION, ModelCard, Preprocessing, fingerprint
from queryopt.errors import ModelError

CARD = ModelCard(
    bits=12,
    preprocessing=Preprocessing.for_size(224),
    backbone="resnet50",
    precision="fp32",
    logit_scale=1.25,
    fingerprint="0" * 64,
    parity={"bits_compared": 20_000, "flipped": 0},
    versions={"queryopt": "0.1.0"},
)


def test_the_paper_resizes_256_to_crop_224() -> None:
    assert Preprocessing.for_size(224).resize_size == 256
    assert Preprocessing.for_size(64).resize_size == 73


def test_a_card_survives_the_metadata_of_a_model() -> None:
    assert ModelCard.from_metadata(CARD.to_metadata(), "m.onnx") == CARD


def test_a_card_with_fields_of_a_later_minor_version_is_read() -> None:
    values = json.loads(CARD.to_json()) | {"something_new": 1}
    assert ModelCard.from_json(json.dumps(values), "m.onnx") == CARD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({FORMAT_KEY: None}, "no queryopt model card"),
        ({CARD_KEY: None}, "no queryopt model card"),
        ({FORMAT_KEY: str(FORMAT_VERSION + 1)}, "upgrade queryopt"),
        ({FORMAT_KEY: "one"}, "damaged"),
        ({FORMAT_KEY: "9" * 5000}, "damaged"),
        ({CARD_KEY: "{"}, "damaged"),
        ({CARD_KEY: "[" * 100_000}, "damaged.*nested too deep"),
        ({CARD_KEY: '{"format_version": ' + "9" * 5000 + "}"}, "damaged"),
        ({CARD_KEY: "[]"}, "damaged"),
        ({CARD_KEY: "{}"}, "damaged"),
        ({CARD_KEY: json.dumps({"format_version": 1})}, "damaged"),
        ({CARD_KEY: replace(CARD, bits=65).to_json()}, "65 bits"),
        ({CARD_KEY: replace(CARD, fingerprint="x").to_json()}, "fingerprint"),
        ({CARD_KEY: replace(CARD, logit_scale=0.0).to_json()}, "logit_scale"),
        ({CARD_KEY: replace(CARD, preprocessing=Preprocessing(224, 200)).to_json()}, "don't fit"),
        ({CARD_KEY: replace(CARD, preprocessing=Preprocessing(10**6, 10**6)).to_json()}, "don't fit"),
        ({CARD_KEY: replace(CARD, precision=None).to_json()}, "precision None is not text"),  # type: ignore[arg-type]
    ],
)
def test_a_damaged_or_newer_card_is_refused_by_name(change: dict[str, str | None], message: str) -> None:
    metadata = {k: v for k, v in (CARD.to_metadata() | change).items() if v is not None}
    with pytest.raises(ModelError, match=rf"m\.onnx: .*{message}"):
        ModelCard.from_metadata(metadata, "m.onnx")


def test_the_fingerprint_follows_weights_preprocessing_and_bits_only() -> None:
    weights = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(3, np.float32)}
    size = Preprocessing.for_size(64)
    mark = fingerprint(weights, size, 12)
    assert mark == fingerprint(dict(reversed(weights.items())), size, 12)
    assert mark == fingerprint({k: v.astype(">f4") for k, v in weights.items()}, size, 12)
    assert mark == fingerprint({k: np.asfortranarray(v) for k, v in weights.items()}, size, 12)
    others = {
        fingerprint(weights, size, 13),
        fingerprint(weights, Preprocessing.for_size(65), 12),
        fingerprint(weights | {"a": np.array([1, 1, 2], np.float32)}, size, 12),
        fingerprint(weights | {"b": weights["b"].reshape(3, 2)}, size, 12),
        fingerprint({"b": weights["b"], "c": weights["a"]}, size, 12),
    }
    assert mark not in others
    assert len(others) == 5


def test_a_card_that_pads_is_of_the_second_version_and_one_that_crops_of_the_first() -> None:
    # What knows no padding refuses such a model, instead of cropping its pictures.
    crop = CARD
    pad = replace(crop, preprocessing=Preprocessing.for_size(64, "pad", background=(1, 2, 3)), format_version=1)
    assert (crop.format_version, pad.format_version) == (1, 2)
    assert ModelCard.from_metadata(pad.to_metadata(), "x") == pad
    assert json.loads(crop.to_json())["preprocessing"].keys() == {"image_size", "resize_size", "mean", "std"}


def test_a_rule_of_labels_of_its_own_is_of_the_third_version_and_the_default_is_not_written() -> None:
    # What knows no such rule refuses the model, instead of labelling by another.
    deep = replace(CARD, label_depth=2)
    assert (CARD.label_depth, deep.format_version) == (1, 3)
    assert "label_depth" not in json.loads(CARD.to_json())
    assert ModelCard.from_metadata(deep.to_metadata(), "x") == deep
    assert replace(deep, label_depth=1) == CARD
    for value in (0, "two", True, None):
        with pytest.raises(ModelError, match="label_depth"):
            ModelCard.from_json(json.dumps(json.loads(CARD.to_json()) | {"label_depth": value}), "x")


def test_what_pads_has_another_fingerprint() -> None:
    weights = {"w": np.ones(3, np.float32)}
    sizes = [Preprocessing.for_size(64), Preprocessing.for_size(64, "pad")]
    assert len({fingerprint(weights, size, 12) for size in [*sizes, replace(sizes[1], background=(0, 0, 0))]}) == 3


@pytest.mark.parametrize(
    ("value", "said"), [({"resize": "squash"}, "squash"), ({"resize": "pad", "background": [1, 2]}, "no colour")]
)
def test_a_resize_rule_that_is_not_known_is_refused(value: dict[str, object], said: str) -> None:
    values = json.loads(CARD.to_json())
    values["preprocessing"] |= value
    with pytest.raises(ModelError, match=said):
        ModelCard.from_json(json.dumps(values), "x")
