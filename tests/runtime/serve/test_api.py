import io
import itertools
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from queryopt.codes import unpack_codes
from queryopt.runtime import Hasher, HashIndex

from .conftest import HTML_NAME, jpeg, serving

BITS = 12


def expected(index, code, k, margins=None):
    """(distance, id) of the nearest, by brute force; equal distances by margins, where they are given."""
    rows = []
    for image in index:
        square = 0 if margins is None else int(((image.margins.astype(int) - margins) ** 2).sum())
        rows.append((int(np.bitwise_count(image.code ^ code).sum()), square, image.id))
    return [(distance, id) for distance, _, id in sorted(rows)[:k]]


def found(reply):
    assert reply.status == 200, reply.text
    return [(hit["distance"], hit["id"]) for hit in reply.json()["hits"]]


def code_of(reply):
    return np.frombuffer(int(reply.json()["code"], 16).to_bytes(2, "little"), np.uint8)


def test_a_file_finds_what_the_index_holds_nearest_to_its_code(client, index, folder, frozen_codes):
    path = folder / "pictures" / "heron" / "3.jpg"
    reply = client.upload(path.read_bytes(), k=5)
    assert int(reply.json()["code"], 16) == frozen_codes["heron/3.jpg"]["integer"]
    assert reply.json()["margins"] == index.find(path).margins.tolist()
    assert reply.json()["rank"] == "margin"
    assert found(reply) == expected(index, code_of(reply), 5, index.find(path).margins)
    for rank in ("id", "hamming"):
        reply = client.upload(path.read_bytes(), k=5, rank=rank)
        assert reply.json()["rank"] == "id"
        assert found(reply) == expected(index, code_of(reply), 5)


def test_hits_say_which_bits_differ_and_name_no_path_of_the_machine(client, index, folder):
    reply = client.search(image=1, k=12)
    asked = unpack_codes(index[1].code[None], BITS)[0]
    for hit in reply.json()["hits"]:
        image = index[hit["id"]]
        other = unpack_codes(image.code[None], BITS)[0]
        differs = {str(bit): [int(asked[bit]), int(other[bit])] for bit in np.flatnonzero(asked != other)}
        assert hit["differs"] == differs
        assert hit["margins"] == image.margins.tolist()
    assert str(folder) not in reply.text
    paths = {hit["path"] for hit in reply.json()["hits"]}
    assert {"finch/1.jpg", HTML_NAME, "heron/\\udcff\\n.jpg"} <= paths


def test_a_code_is_text_or_a_number(client, index):
    for code in ("0x18c", "396", 396):
        reply = client.search(code=code, k=3)
        assert reply.json()["margins"] is None
        assert reply.json()["rank"] == "id"
        assert found(reply) == expected(index, np.array([0x8C, 1], np.uint8), 3)


def test_pages_are_parts_of_the_whole(client):
    whole = found(client.search(image=3, k=10))
    parts = [found(client.search(image=3, k=10, offset=at, limit=4)) for at in (0, 4, 8, 12)]
    assert list(itertools.chain(*parts)) == whole
    assert [len(part) for part in parts] == [4, 4, 2, 0]
    assert client.search(image=3, k=10, offset=8, limit=4).json()["hits"][0]["rank"] == 9


def test_a_radius_and_the_query_itself_leave_hits_out(client, index):
    near = [pair for pair in expected(index, index[3].code, 99, index[3].margins) if pair[0] <= 3]
    assert found(client.search(image=3, k=99, radius=3)) == near
    assert found(client.search(image=3, k=99, radius=3, exclude_self=True)) == [p for p in near if p[1] != 3]


def test_ties_are_counted(client, index):
    rows = expected(index, index[3].code, 99)
    reply = client.search(image=3, k=2).json()
    assert reply["ties"] == sum(distance == rows[1][0] for distance, _ in rows[2:])
    assert client.search(image=3, k=99).json()["ties"] == 0


def test_other_ranks_are_those_of_the_index(client, index, folder):
    with Hasher(folder / "model.onnx") as hasher:
        batch = hasher.hash_files([folder / "pictures" / "finch" / "2.jpg"])
    data = (folder / "pictures" / "finch" / "2.jpg").read_bytes()
    for rank in ("weighted", "tiebreak"):
        hits = client.upload(data, rank=rank, k=6).json()["hits"]
        result = index.search(batch.codes, 6, logits=batch.logits, rank=rank)
        assert [(h["id"], h["score"]) for h in hits] == list(
            zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True)
        )


def test_an_upload_is_kept_for_further_pages(client):
    first = client.upload(jpeg(), name="red.jpg", k=5)
    again = client.search(query=first.json()["query"], k=5)
    assert found(again) == found(first)
    small = client.get(f"/query/{first.json()['query']}/image")
    assert Image.open(io.BytesIO(small.data)).size == (90, 60)
    assert client.search(query="unknown").status == 404


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"no picture at all", "text"),
        (jpeg()[:300], "truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "text"),
        (b"%PDF-1.7 ...", "PDF"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(client, data, reason):
    reply = client.upload(data, name="odd.jpg")
    assert reply.status == 400
    assert reply.detail.startswith("odd.jpg: ")
    assert reason in reply.detail


def test_a_decompression_bomb_is_refused_before_it_is_decoded(client):
    data = io.BytesIO()
    Image.new("1", (9000, 9000)).save(data, "PNG")
    assert len(data.getvalue()) < 20_000
    reply = client.upload(data.getvalue(), name="bomb.png")
    assert (reply.status, "pixels" in reply.detail) == (400, True)


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (3000, 2)])
def test_pictures_of_odd_shapes_are_searched_for(client, size):
    assert len(found(client.upload(jpeg(size), k=3))) == 3


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "I;16"])
def test_every_kind_of_pixel_is_searched_for(client, mode):
    data = io.BytesIO()
    Image.new(mode, (40, 40)).save(data, "TIFF" if mode == "CMYK" else "PNG")
    assert len(found(client.upload(data.getvalue(), k=3))) == 3


def test_an_upload_has_the_code_that_its_file_has(client, folder, tmp_path):
    """Turned by EXIF, animated, of several pictures in one: as a person sees it."""
    picture = Image.open(folder / "pictures" / "heron" / "1.jpg")
    other = Image.open(folder / "pictures" / "finch" / "1.jpg").resize(picture.size)
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.rotate(90, expand=True).save(tmp_path / "turned.jpg", quality=95, exif=turned)
    picture.save(tmp_path / "moves.gif", save_all=True, append_images=[other])
    picture.save(tmp_path / "two.mpo", save_all=True, append_images=[other])
    picture.save(tmp_path / "new.webp")
    files = sorted(tmp_path.iterdir())
    with Hasher(folder / "model.onnx", threads=1) as hasher:
        batch = hasher.hash_files(files)
    assert len(batch) == 4
    for file, code in zip(files, batch.codes, strict=True):
        np.testing.assert_array_equal(code_of(client.upload(file.read_bytes(), name=file.name)), code)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "nothing (or"),
        ({"image": 1, "code": 3}, "code and image given"),
        ({"code": "0x1000"}, "12 bits"),
        ({"code": "-1"}, "12 bits"),
        ({"code": "fish"}, "integer"),
        ({"image": 1, "k": 0}, "k: "),
        ({"image": 1, "k": 10**6}, "k: "),
        ({"image": 1, "radius": -1}, "radius: "),
        ({"image": 1, "radius": 13}, "from 0 to 12"),
        ({"image": 1, "rank": "best"}, "rank: "),
        ({"image": 1, "limits": 3}, "limits: "),
        ({"image": -1}, "image: "),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(client, fields, reason):
    reply = client.search(**fields)
    assert reply.status == 400
    assert reason in reply.detail


def test_a_form_that_is_cut_off_is_said_so(client):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + jpeg()[:200]
    reply = client.send("POST", "/search", body, Content_Type="multipart/form-data; boundary=x")
    assert (reply.status, "cut off" in reply.detail) == (400, True)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/results?image=1&k=0", 422, "K: input should be greater than or equal to 1"),
        ("/nowhere", 404, "There is no such page"),
        ("/results?image=99", 404, "99"),
    ],
)
def test_a_browser_gets_a_page_in_plain_words(client, path, status, words):
    reply = client.get(path, Accept="text/html")
    assert (reply.status, words in reply.text) == (status, True), reply.text
    assert "query." not in reply.text.lower()


def test_health_says_whether_the_pictures_are_there(make_index):
    folder = make_index()
    with serving(folder, "photos.db") as process:
        assert process.client.get("/healthz").json()["pictures"] is True
        (folder / "pictures").rename(folder / "elsewhere")
        health = process.client.get("/healthz").json()
        assert (health["status"], health["pictures"]) == ("ok", False)
        assert process.client.search(image=1).status == 200
        for path, words in (("/duplicates", "The folder of the pictures is not there"), ("/picture/1", "finch/1.jpg")):
            page = process.client.get(path, Accept="text/html")
            assert page.status == 200
            assert words in page.text.replace("<wbr>", "")


def test_ids_that_are_not_there_are_not_found(client):
    for path in ("/image/99", "/image/99/attention", "/query/x/image", "/results?image=99"):
        assert client.get(path).status == 404
    assert client.search(image=99).status == 404
    assert client.get(f"/image/{1 << 70}").status in (404, 422)
    assert client.get(f"/all?after={1 << 70}").status == 422


def test_a_file_that_is_too_large_for_memory_is_searched_for(client, folder):
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8)).save(data, "PNG")
    assert len(data.getvalue()) > 1 << 20  # from there on the form's parser takes the disk
    reply = client.upload(data.getvalue(), k=3)
    with Hasher(folder / "model.onnx", threads=1) as hasher:
        np.testing.assert_array_equal(code_of(reply), hasher.hash_arrays([np.asarray(Image.open(data))]).codes[0])


def test_other_bodies_are_refused(client):
    assert client.send("POST", "/search", b"{", Content_Type="application/json").status == 400
    assert client.send("POST", "/search", b"[1]", Content_Type="application/json").status == 400
    assert client.send("POST", "/search", b"[" * 50_000, Content_Type="application/json").status == 400
    assert client.send("POST", "/search", b"http://x/y.jpg", Content_Type="text/plain").status == 400
    assert client.send("POST", "/search", b"--x", Content_Type="multipart/form-data; boundary=y").status == 400
    assert client.send("POST", "/search", b"x", Content_Type="multipart/form-data").status == 400


def test_a_form_without_a_file_needs_no_multipart(client):
    kind = {"Content_Type": "application/x-www-form-urlencoded"}
    reply = client.send("POST", "/search", b"image=1&k=3", **kind)
    assert found(reply) == found(client.search(image=1, k=3))
    assert client.send("POST", "/search", b"a=1&" * 30, **kind).status == 400
    assert client.send("POST", "/search", b"code=" + b"1" * 70_000, **kind).status == 413


def test_an_address_is_never_fetched(client):
    # Whatever is called so: it is no file, no code, no field.
    assert client.search(url="http://127.0.0.1:1/x.jpg").status == 400


def test_a_picture_is_sent_upright_small_and_without_its_metadata(make_index):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where I live"

    def add(pictures: Path) -> None:
        (pictures / "0.jpg").write_bytes(jpeg((300, 200), exif=exif))

    with serving(make_index(add), "photos.db") as process:
        reply = process.client.get("/image/1")
        shown = Image.open(io.BytesIO(reply.data))
        assert shown.size == (200, 300)
        assert not dict(shown.getexif())
        assert b"where I live" not in reply.data
        assert reply.headers["content-type"] == "image/jpeg"
        square = process.client.get("/image/1?size=64&view=model")
        assert Image.open(io.BytesIO(square.data)).size == (64, 64)
        again = process.client.get("/image/1", If_None_Match=reply.headers["etag"])
        assert (again.status, again.data) == (304, b"")


def test_the_models_view_is_what_the_model_sees(client, index, folder):
    from queryopt.images import load_image

    seen = load_image(folder / "pictures" / "finch" / "1.jpg", index.card.preprocessing)
    image = next(i for i in index if i.relative == b"finch/1.jpg")
    view = Image.open(io.BytesIO(client.get(f"/image/{image.id}?size=2048&view=model").data))
    small = np.asarray(view.resize((32, 32), Image.Resampling.BILINEAR), np.float64)
    assert np.abs(small - seen).mean() < 4


def test_another_file_of_the_same_size_and_time_is_no_cached_one(make_index):
    folder = make_index()
    with serving(folder, "photos.db") as process:
        before = process.client.get("/image/1?size=32")
        with HashIndex.open(folder / "photos.db", readonly=True) as index:
            path = Path(os.fsdecode(index[1].path))
        status = path.stat()
        data = jpeg((32, 32), (0, 0, 255))
        other = path.with_name("other")
        other.write_bytes(data + bytes(status.st_size - len(data)))
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(other, path)
        after = process.client.get("/image/1?size=32", If_None_Match=before.headers["etag"])
        assert (after.status, after.data == before.data) == (200, False)


def test_links_that_leave_the_root_and_vanished_files_are_not_shown(client, index, folder):
    ids = {image.relative: image.id for image in index}
    for name, reason in ((b"heron/leaves.jpg", "leaves the folder"), (b"heron/vanishes.jpg", "not there any more")):
        reply = client.get(f"/image/{ids[name]}")
        assert reply.status == 404
        assert reason in reply.detail
        assert str(folder) not in reply.text
        drawn = client.get(f"/image/{ids[name]}?fallback=true")
        assert (drawn.status, drawn.headers["content-type"]) == (200, "image/svg+xml")
        assert client.get(f"/image/{ids[name]}/attention").status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/image/../photos.db",
        "/image/..%2Fphotos.db",
        "/static/../app.py",
        "/static/..%2f..%2fapp.py",
        "/image//etc/passwd",
    ],
)
def test_no_path_of_a_client_reaches_the_disk(client, path):
    reply = client.get(path)
    assert reply.status in (404, 422)
    assert b"SQLite" not in reply.data
    assert b"import" not in reply.data


def test_attention_is_a_map_for_each_bit(client, index, folder):
    whole = client.get("/image/1/attention").json()
    assert (whole["grid"], whole["bits"]) == (4, list(range(BITS)))
    np.testing.assert_allclose(np.sum(whole["maps"], axis=1), 1, rtol=1e-2)
    one = client.get("/image/1/attention?bit=5").json()
    assert one["maps"] == [whole["maps"][5]]
    assert client.get("/image/1/attention?bit=12").status == 404
    name = client.upload(Path(index[1].path).read_bytes()).json()["query"]
    np.testing.assert_allclose(client.get(f"/query/{name}/attention").json()["maps"], whole["maps"], atol=1e-3)


def test_bits_say_who_is_most_sure_of_them(client, index):
    while client.get("/bits?bit=0").json()[0]["ones"] is None:
        time.sleep(0.05)  # the first look begins with the server, and may still be under way
    bits = client.get("/bits?count=12").json()
    margins = {image.id: image.margins for image in index}
    assert [bit["bit"] for bit in bits] == list(range(BITS))
    for bit, row in enumerate(bits):
        high = sorted(((-int(m[bit]), id) for id, m in margins.items() if m[bit] > 0))
        low = sorted(((int(m[bit]), id) for id, m in margins.items() if m[bit] < 0))
        assert [(-one["margin"], one["id"]) for one in row["highest"]] == high
        assert [(-one["margin"], one["id"]) for one in row["lowest"]] == low
        assert row["ones"] == pytest.approx(len(high) / 12)
    assert len(client.get("/bits?bit=3&count=2").json()) == 1


def test_metrics_are_prometheus_text(client):
    client.search(image=1)
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    assert families["queryopt_index_images"].samples[0].value == 12
    routes = {s.labels["route"] for s in families["queryopt_requests"].samples if "route" in s.labels}
    assert "/search" in routes
    client.get("/no/such/place/123")
    assert "/no/such" not in client.get("/metrics").text  # a client can't make new series


def test_every_operation_is_described_and_the_description_needs_no_other_host(client):
    api = client.get("/openapi.json").json()
    assert api["openapi"].startswith("3.")
    paths = {"/search", "/image/{id}", "/bits", "/healthz", "/metrics"}
    assert paths <= set(api["paths"])
    page = client.get("/docs").text
    for path in api["paths"]:
        assert f"<code>{path}</code>" in page
    assert not [part for part in page.split('"') if part.startswith(("http:", "https:", "//"))]


def test_what_others_add_while_it_runs_is_found(make_index):
    folder = make_index()
    with serving(folder, "photos.db") as process:
        client = process.client
        before = client.get("/healthz").json()["images"]
        assert client.get("/bits?bit=0&count=99").status == 200
        shutil.copy(folder / "pictures" / "finch" / "1.jpg", folder / "pictures" / "new.jpg")
        with Hasher(folder / "model.onnx") as hasher, HashIndex.open(folder / "photos.db") as index:
            index.update(hasher)
            new = index.find("new.jpg").id
        assert client.get("/healthz").json()["images"] == before + 1
        assert new in [id for distance, id in found(client.search(image=1, k=99)) if distance == 0]
        assert client.get(f"/image/{new}").status == 200
        with HashIndex.open(folder / "photos.db") as index:
            index.remove(new)
        assert client.get(f"/image/{new}").status == 404
        assert new not in [id for _, id in found(client.search(image=1, k=99))]


def test_without_attention_and_without_a_model_the_rest_works(make_index, frozen_model):
    folder = make_index(model=frozen_model)
    with serving(folder, "photos.db") as process:
        assert process.facts["attention"] is False
        assert found(process.client.upload(jpeg(), k=2))
        reply = process.client.get("/image/1/attention")
        assert (reply.status, "--explain" in reply.detail) == (501, True)
    os.unlink(folder / "model.onnx")
    with serving(folder, "photos.db") as process:
        assert found(process.client.search(image=1, k=2))
        reply = process.client.upload(jpeg())
        assert (reply.status, "--model" in reply.detail) == (501, True)
        assert "no model" in process.client.get("/").text
        assert "no model" in process.stop()[1]


def test_a_damaged_index_is_told_without_its_path(make_index):
    folder = make_index()
    with serving(folder, "photos.db") as process:
        path = folder / "photos.db"
        assert found(process.client.search(image=1, k=1))
        import sqlite3

        with sqlite3.connect(path) as damage:
            damage.execute("UPDATE images SET code = x'0000' WHERE id = 2")
        reply = process.client.search(image=2)
        assert (reply.status, str(folder) in reply.text) == (500, False)
        assert "damaged" in process.stop()[1]


def test_an_index_that_is_made_anew_is_served_from_then_on(make_index, changed_model):
    folder, smaller, foreign = make_index(), make_index(), make_index(model=changed_model(_another_checkpoint))
    with HashIndex.open(smaller / "photos.db") as index:
        index.remove(range(1, 4))
    with serving(folder, "photos.db") as process:
        client, path = process.client, folder / "photos.db"
        images = client.get("/healthz").json()["images"]
        everything = client.get("/bits?bit=0").json()
        path.unlink()
        assert found(client.search(image=1, k=1)) == [(0, 1)]
        shutil.copy(foreign / "photos.db", path)
        time.sleep(1.1)  # it is looked for once a second
        assert found(client.search(image=1, k=1)) == [(0, 1)]
        path.unlink()
        shutil.copy(smaller / "photos.db", path)
        assert _within_seconds(lambda: client.search(image=1).status == 404)
        assert client.get("/healthz").json()["images"] == images - 3
        assert _within_seconds(lambda: client.get("/bits?bit=0").json() != everything)
        assert found(client.upload(jpeg(), k=99))
        code, said = process.stop()
    assert code == 0
    assert said.count("the former one is served") == 2  # gone; of another checkpoint
    assert "served from now on" in said


def _another_checkpoint(model):
    for prop in model.metadata_props:
        prop.value = prop.value.replace("9287e8b6", "00000000")


def _within_seconds(holds):
    for _ in range(100):
        if holds():
            return True
        time.sleep(0.1)
    return False


def test_json_without_hits_is_an_answer(client):
    reply = client.search(code="0x0", radius=0)
    assert (reply.status, reply.json()["hits"]) == (200, [])
    assert json.loads(reply.data)["total"] == 0
