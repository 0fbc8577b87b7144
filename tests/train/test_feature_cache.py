import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from queryopt.train.feature_cache import FeatureCache, digest_files, user_cache

PICTURES = [hashlib.sha256(bytes([number])).digest() for number in range(8)]
FEATURES = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
FILE_BYTES = 32 + 5 * 4


@pytest.fixture
def cache(tmp_path):
    filled = FeatureCache(tmp_path / "cache")
    filled.keep("recipe", PICTURES, FEATURES)
    return filled


def files(folder):
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


def there(cache, picture):
    return cache.find("recipe", picture, 5) is not None


def test_what_was_kept_is_found_by_its_picture_and_its_recipe(cache, tmp_path):
    for opened in (cache, FeatureCache(tmp_path / "cache")):
        for picture, values in zip(PICTURES, FEATURES, strict=True):
            np.testing.assert_array_equal(opened.find("recipe", picture, 5), values)
    assert cache.find("another", PICTURES[0], 5) is None
    assert cache.find("recipe", hashlib.sha256(b"new").digest(), 5) is None
    assert cache.find("recipe", PICTURES[0], 6) is None


def test_a_damaged_file_counts_as_none_and_is_replaced(cache, tmp_path, caplog):
    sound = files(tmp_path)[0].read_bytes()
    spoilt = [bytes(len(sound)), b"", sound[:-1], sound + b"\0"]
    spoilt += [sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :] for at in (0, 31, 32, len(sound) - 1)]
    for path, data in zip(files(tmp_path), spoilt, strict=True):
        path.write_bytes(data)
    assert not any(there(cache, picture) for picture in PICTURES)
    assert not caplog.records
    cache.keep("recipe", PICTURES, FEATURES)
    assert all(there(cache, picture) for picture in PICTURES)


def test_beyond_the_limit_go_those_that_were_used_longest_ago(cache, tmp_path):
    for age, path in enumerate(files(tmp_path)):
        os.utime(path, ns=(0, age))
    oldest = bytes.fromhex(files(tmp_path)[0].parent.name + files(tmp_path)[0].name)
    assert there(cache, oldest)  # and so it was used just now
    FeatureCache(tmp_path / "cache", limit=8 * FILE_BYTES).trim()
    assert len(files(tmp_path)) == 8
    FeatureCache(tmp_path / "cache", limit=5 * FILE_BYTES).trim()
    assert len(files(tmp_path)) == 4
    assert there(cache, oldest)


def test_a_folder_that_cant_be_written_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "cache")
    for _ in range(2):
        cache.keep("recipe", PICTURES, FEATURES)
        cache.trim()
        assert not there(cache, PICTURES[0])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "QUERYOPT_CACHE" in caplog.text


def test_several_at_once(tmp_path):
    def use(number):
        cache = FeatureCache(tmp_path / "cache", limit=4 * FILE_BYTES)
        for _ in range(20):
            cache.keep("recipe", PICTURES, FEATURES)
            found = {place: cache.find("recipe", picture, 5) for place, picture in enumerate(PICTURES)}
            for place, values in found.items():
                assert values is None or np.array_equal(values, FEATURES[place])
            cache.trim()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    FeatureCache(tmp_path / "cache", limit=4 * FILE_BYTES).trim()
    assert len(files(tmp_path)) <= 4


def test_where_it_lies(monkeypatch, tmp_path):
    def folder():
        return user_cache()._folder

    monkeypatch.setenv("QUERYOPT_CACHE", str(tmp_path))
    assert folder() == tmp_path / "features"
    monkeypatch.setenv("QUERYOPT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert folder() == Path("/var/cache/me/queryopt/features")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to pass over
    monkeypatch.setenv("HOME", "/home/me")
    assert folder() == Path("/home/me/.cache/queryopt/features")


def test_a_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "empty").touch()
    paths = [tmp_path / name for name in ("a", "empty", "gone")]
    assert digest_files([*paths, tmp_path], 2) == [hashlib.sha256(b"one").digest(), None, None, None]
