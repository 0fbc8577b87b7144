import json

import pytest

from queryopt.errors import FormatError, InputError, MismatchError
from queryopt.runtime.serve.bit_cards import read_bit_cards


def written(path, cards):
    path.write_text(json.dumps({"bit_cards": {"model": "m", "cards": cards}}))
    return path


def card(bit, **match):
    best = {"attribute": "red wing", "positive": False, "score": 0.8, "p_holm": 0.01, "matched": 0.7, **match}
    return {"bit": bit, "ones": 0.5, "drop_loss": 0.02, "by_accuracy": best if match is not None else None}


def test_the_file_of_qo_eval_is_read(tmp_path):
    (one,) = read_bit_cards(written(tmp_path / "bits.json", [card(0)]), 1)
    assert (one.attribute, one.positive, one.accuracy, one.p, one.drop_loss) == ("red wing", False, 0.8, 0.01, 0.02)
    plain = {**card(0), "by_accuracy": None}
    (one,) = read_bit_cards(written(tmp_path / "bits.json", [plain]), 1)
    assert (one.attribute, one.drop_loss) == (None, 0.02)


def test_what_qo_eval_makes_of_a_model_is_read(tmp_path):
    import numpy as np

    from queryopt.bench.quality.bit_cards import make_bit_cards
    from queryopt.bench.quality.labelled_codes import LabelledCodes
    from queryopt.codes import pack_codes

    bits = np.random.default_rng(0).random((40, 12)) < 0.5
    codes = LabelledCodes(12, pack_codes(bits), np.array(list("abcd") * 10), tuple(b"%d" % i for i in range(40)), {})
    made = make_bit_cards("m", codes, codes)
    (tmp_path / "bits.json").write_text(made.to_json())
    read = read_bit_cards(tmp_path / "bits.json", 12)
    assert [one.drop_loss for one in read] == [one.drop_loss for one in made.cards]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "bits.json"
    with pytest.raises(InputError, match="no such file"):
        read_bit_cards(path, 1)
    for text in ("# Bit cards", "[]", '{"bit_cards": {"cards": [{"bit": 0}]}}', '{"bit_cards": 3}'):
        path.write_text(text)
        with pytest.raises(FormatError, match="--bits-out"):
            read_bit_cards(path, 1)
    with pytest.raises(FormatError, match="--bits-out"):
        read_bit_cards(written(path, [card(0, score=float("nan"))]), 1)
    with pytest.raises(FormatError, match="--bits-out"):
        read_bit_cards(written(path, [card(1)]), 1)
    with pytest.raises(MismatchError, match="2 bits"):
        read_bit_cards(written(path, [card(0), card(1)]), 1)
