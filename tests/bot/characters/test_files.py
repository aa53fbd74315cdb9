"""The three packings of a card, honest and hostile."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import time
import zipfile
import zlib

import pytest
from PIL import Image

from bot.characters.files.export import as_version_2, as_version_3, export_json, export_png, plain_card
from bot.characters.files.png_card import blank_png
from bot.characters.files.reading import read_file
from bot.characters.refused import MAX_CARD_BYTES, CardRefused
from tests.bot.characters.card_files import (
    SIGNATURE,
    charx,
    chunk,
    encoded,
    header,
    png,
    text_chunk,
    v2,
    v3,
)

V1 = {"name": "Mira", "description": "d", "personality": "p", "scenario": "s", "first_mes": "f", "mes_example": "m"}
ODD = {
    "name": "Mira “ミラ”",
    "extensions": {"depth_prompt": {"prompt": "x", "depth": 4}, "n": [1, 2.5, None, True, "\u0000\ud800", {"": []}]},
    "character_book": {
        "entries": [{"keys": ["a"], "content": "@@depth 4\nb", "enabled": True, "x": 1, "extensions": {"y": 2}}],
        "extensions": {"z": 3},
        "unknown": 7,
    },
    "a_field_of_tomorrow": {"deep": [0.1, 123456789012345678]},
}


@pytest.mark.parametrize("card", [V1, v2(), v3()], ids=["v1", "v2", "v3"])
@pytest.mark.parametrize("packing", ["PNG", "JSON", "CHARX"])
def test_every_version_comes_in_every_packing(card: dict[str, object], packing: str) -> None:
    data = {"PNG": png(text_chunk(card)), "JSON": json.dumps(card).encode(), "CHARX": charx(card)}[packing]
    imported = read_file(data)
    assert (imported.packing, imported.card.name) == (packing, "Mira")
    assert imported.card.description == ("d" if card is V1 else "A miller.")


def test_ccv3_goes_before_chara_wherever_it_stands() -> None:
    data = png(text_chunk(v2(name="Old")), text_chunk(v3(name="New"), b"ccv3"))
    assert read_file(data).card.name == "New"


@pytest.mark.parametrize("keyword", [b"chara", b"Chara", b"CCV3"])
def test_the_keyword_has_no_case(keyword: bytes) -> None:
    assert read_file(png(text_chunk(v3(), keyword))).card.name == "Mira"


@pytest.mark.parametrize(
    "packed",
    [
        chunk(b"zTXt", b"chara\0\0" + zlib.compress(encoded(v2()))),
        chunk(b"iTXt", b"chara\0\0\0\0\0" + encoded(v2())),
        chunk(b"iTXt", b"chara\0\1\0en\0Chara\0" + zlib.compress(encoded(v2()))),
        chunk(b"tEXt", b"chara\0" + json.dumps(v2()).encode()),
        chunk(b"tEXt", b"chara\0" + encoded(v2()).rstrip(b"=")),
    ],
    ids=["zTXt", "iTXt", "packed iTXt", "not base64", "no padding"],
)
def test_other_ways_to_write_the_text_are_read(packed: bytes) -> None:
    assert read_file(png(packed)).card.name == "Mira"


def test_an_animation_is_read_and_becomes_a_still_picture() -> None:
    data = png(chunk(b"acTL", b"\0\0\0\1\0\0\0\0"), chunk(b"fdAT", b"\0\0\0\1abc"), text_chunk(v3(), b"ccv3"))
    imported = read_file(data)
    assert imported.is_animated
    assert b"acTL" not in imported.picture
    assert b"fdAT" not in imported.picture


@pytest.mark.parametrize("original", [v2(**ODD), v3(**ODD)], ids=["v2", "v3"])
def test_unknown_fields_and_extensions_survive_a_round_trip(original: dict[str, object]) -> None:
    card = read_file(png(text_chunk({**original, "top": [1]}))).card
    for data in (export_json(card.raw), export_png(card.raw, blank_png())):
        again = read_file(data).card
        assert again.raw["top"] == [1]
        for name, value in ODD.items():
            assert again.raw["data"][name] == value
        assert again == card if original["spec"] == "chara_card_v3" else again.book == card.book
    assert export_json(read_file(export_json(card.raw)).card.raw) == export_json(card.raw)


def test_a_flat_card_keeps_its_own_fields() -> None:
    exported = as_version_3({**V1, "create_date": "2023", "talkativeness": "0.5"})
    assert (exported["data"]["create_date"], exported["data"]["talkativeness"]) == ("2023", "0.5")


def test_an_export_serves_readers_of_both_versions() -> None:
    raw = v3(creator_notes="Be kind.", character_book=ODD["character_book"])
    data = export_png(raw, blank_png())
    texts = Image.open(io.BytesIO(data)).text  # type: ignore[attr-defined]
    old, new = (json.loads(base64.b64decode(texts[name])) for name in ("chara", "ccv3"))
    assert new == as_version_3(raw)
    assert (old["spec"], old["spec_version"]) == ("chara_card_v2", "2.0")
    assert "loaded as a Character Card V2" in old["data"]["creator_notes"]
    assert old["data"]["creator_notes"].endswith("Be kind.")
    assert old["data"]["character_book"]["entries"][0]["content"] == "b"
    assert new["data"]["character_book"]["entries"][0]["content"] == "@@depth 4\nb"
    assert as_version_2(as_version_3(v2()))["data"]["name"] == "Mira"


def test_an_export_is_a_picture_that_others_open_with_the_pixels_of_before() -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 30), 90).save(file, "PNG")
    data = export_png(v3(), file.getvalue())
    with Image.open(io.BytesIO(data)) as opened, Image.open(file) as before:
        assert opened.tobytes() == before.tobytes()
    with Image.open(io.BytesIO(export_png(v3(), b""))) as blank:
        blank.load()
    assert read_file(export_png(v3(name="Other"), data)).card.name == "Other"  # not a second text beside the first


def test_a_plain_persona_is_a_card_that_says_the_same() -> None:
    card = read_file(export_json(plain_card("Bob", "You are Bob."))).card
    assert (card.name, card.system_prompt, card.description) == ("Bob", "You are Bob.", "")


def test_the_main_picture_of_a_charx_comes_along_and_the_rest_is_counted() -> None:
    assets = [
        {"type": "icon", "name": "second", "uri": "embeded://assets/icon/images/2.png", "ext": "png"},
        {"type": "icon", "name": "main", "uri": "embeded://assets/icon/images/1.png", "ext": "png"},
    ]
    data = charx(v3(assets=assets), ("assets/icon/images/1.png", b"one"), ("assets/icon/images/2.png", b"two"))
    imported = read_file(data)
    assert (imported.picture, imported.num_assets) == (b"one", 1)


def wide() -> bytes:
    return png(text_chunk(v2()), head=header(20_000, 20_000))


def packed_bomb() -> bytes:
    return png(chunk(b"zTXt", b"chara\0\0" + zlib.compress(b"A" * (30 << 20))))


def large_text() -> bytes:
    return png(chunk(b"tEXt", b"chara\0" + base64.b64encode(b'{"name":"' + b"A" * (MAX_CARD_BYTES + 1) + b'"}')))


def locked() -> bytes:
    data = bytearray(charx(v3()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def lying_size() -> bytes:
    data = bytearray(charx(b'{"name":"' + b"A" * (MAX_CARD_BYTES + 100) + b'"}'))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(signature) + offset
        data[start : start + 4] = (100).to_bytes(4, "little")
    return bytes(data)


def two_cards() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("card.json", json.dumps(v3()))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("card.json", json.dumps(v3(name="Other")))
    return file.getvalue()


def link() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo("card.json")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return file.getvalue()


HOSTILE = {
    "empty": lambda: b"",
    "no card at all": lambda: b"\xff\xd8\xff\xe0JFIF",
    "a picture without a card": lambda: png(),
    "only a signature": lambda: SIGNATURE,
    "wrong checksum": lambda: png(chunk(b"tEXt", b"chara\0" + encoded(v2()), crc=1)),
    "wrong checksum of the pixels": lambda: SIGNATURE + header() + chunk(b"IDAT", b"x", crc=1) + text_chunk(v2()),
    "no end": lambda: png(text_chunk(v2()), end=False)[:-3],
    "length of 4 GiB": lambda: SIGNATURE + b"\xff\xff\xff\xfftEXt" + b"x" * 100,
    "no header first": lambda: SIGNATURE + text_chunk(v2()) + header() + chunk(b"IEND", b""),
    "a second header": lambda: png(header(), text_chunk(v2())),
    "100,000 chunks": lambda: png(*[chunk(b"tEXt", b"")] * 100_000, text_chunk(v2())),
    "20,000 pixels a side": wide,
    "no pixels": lambda: png(text_chunk(v2()), head=header(0, 5)),
    "text bomb": packed_bomb,
    "broken packing": lambda: png(chunk(b"zTXt", b"chara\0\0not zlib")),
    "4 MiB of text": large_text,
    "no base64": lambda: png(chunk(b"tEXt", b"chara\0\xff\xfe\xfd")),
    "no JSON": lambda: png(chunk(b"tEXt", b"chara\0" + base64.b64encode(b"{oops"))),
    "nested JSON": lambda: b'{"name":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep JSON": lambda: b'{"name":"a","x":' + b"[" * 150 + b"]" * 150 + b"}",
    "NaN": lambda: b'{"name":"a","x":NaN}',
    "a number without end": lambda: b'{"name":"a","x":1e999}',
    "a number of 5,000 digits": lambda: b'{"name":"a","x":' + b"9" * 5000 + b"}",
    "not UTF-8": lambda: b'{"name":"\xff"}',
    "a list": lambda: png(text_chunk([1, 2])),
    "another program's JSON": lambda: b'{"name": "left-pad", "description": "Pads.", "version": "1.0.0"}',
    "no name": lambda: json.dumps(v2(name=" \u0000 ")).encode(),
    "a name that is an object": lambda: json.dumps(v2(name={"a": 1})).encode(),
    "a description that is a list": lambda: json.dumps(v2(description=["a"])).encode(),
    "extensions that are a text": lambda: json.dumps(v2(extensions="a")).encode(),
    "entries that are a text": lambda: json.dumps(v2(character_book={"entries": "a"})).encode(),
    "an entry that is a number": lambda: json.dumps(v2(character_book={"entries": [1]})).encode(),
    "100,000 entries": lambda: json.dumps(v2(character_book={"entries": [{}] * 100_000})).encode(),
    "10,000 greetings": lambda: json.dumps(v2(alternate_greetings=["a"] * 10_000)).encode(),
    "zip without a card": lambda: charx(None, ("a.txt", b"a")),
    "zip of a zip": lambda: charx(v3(), ("assets/other/inner.zip", charx(v3()))),
    "zip with paths": lambda: charx(v3(), ("../../etc/passwd", b"x")),
    "zip with a drive": lambda: charx(v3(), ("C:/x", b"x")),
    "zip with a root": lambda: charx(v3(), ("/etc/passwd", b"x")),
    "zip bomb": lambda: charx(b'{"name":"' + b"A" * (3 << 20) + b'"}'),
    "zip of 30 MiB": lambda: charx(b'{"name":"' + b"A" * (30 << 20) + b'"}'),
    "zip that lies": lying_size,
    "zip with a lock": locked,
    "zip with two cards": two_cards,
    "zip with a link": link,
    "cut zip": lambda: charx(v3())[10:],
    "3,000 files": lambda: charx(v3(), *[(f"{number}.txt", b"") for number in range(3000)]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_and_soon(name: str) -> None:
    data = HOSTILE[name]()
    started = time.process_time()
    with pytest.raises(CardRefused) as refused:
        read_file(data)
    assert time.process_time() - started < 2
    assert "\n" not in refused.value.user_message
    assert len(refused.value.user_message) < 200


def test_a_broken_file_never_raises_anything_else() -> None:
    whole = [png(text_chunk(v3(), b"ccv3")), charx(v3(), ("a.png", b"x" * 50)), json.dumps(v3(**ODD)).encode()]
    for data in whole:
        for position in range(0, len(data), 3):
            changed = bytearray(data)
            changed[position] ^= 0x5A
            for broken in (bytes(changed), data[:position]):
                with contextlib.suppress(CardRefused):
                    read_file(broken)
