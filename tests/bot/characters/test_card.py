"""What the fields of a card are read as."""

from __future__ import annotations

import pytest

from bot.characters.card import read_card, with_greeting
from bot.characters.files.export import export_json
from bot.characters.files.reading import read_file
from bot.characters.preview import limited_text, preview
from tests.bot.characters.card_files import charx, v2, v3


def test_missing_and_null_fields_are_empty() -> None:
    card = read_card({"spec": "chara_card_v3", "data": {"name": "Mira", "description": None, "tags": None}})
    assert (card.description, card.tags, card.greetings, card.book, card.extensions) == ("", (), ("",), None, ())


@pytest.mark.parametrize("version", ["2.0", "9.9", 3, None, "three"])
def test_a_wrong_version_is_no_reason_to_refuse(version: object) -> None:
    card = read_card({**v3(), "spec_version": version})
    assert card.name == "Mira"
    assert card.is_newer == (version == "9.9")


def test_numbers_in_place_of_texts_and_texts_in_place_of_numbers() -> None:
    entry = {"keys": [42], "content": "x", "insertion_order": "7", "priority": "2", "enabled": "true"}
    card = read_card(v2(character_version=1.5, character_book={"scan_depth": "3", "entries": [entry]}))
    assert card.character_version == "1.5"
    assert card.book is not None
    (read,) = card.book.entries
    assert (card.book.scan_depth, read.keys, read.order, read.priority, read.enabled) == (3, ("42",), 7, 2, True)


def test_the_fields_before_there_were_cards() -> None:
    card = read_card({"char_name": "Mira", "char_persona": "A miller.", "char_greeting": "Hi", "world_scenario": "s"})
    assert (card.version, card.name, card.description, card.greetings, card.scenario) == (
        1, "Mira", "A miller.", ("Hi",), "s",
    )  # fmt: skip


def test_a_card_with_the_fields_of_version_1_beside_those_of_2_is_of_version_2() -> None:
    assert read_card({"name": "Old", **v2(name="New")}).name == "New"


def test_a_name_is_one_short_line_and_the_nickname_is_what_the_macro_says() -> None:
    card = read_card(v3(name="A\n  B" + "x" * 200, nickname="Bee"))
    assert card.name.startswith("A B")
    assert len(card.name) == 80
    assert (card.char, read_card(v3(nickname="")).char) == ("Bee", "Mira")


def test_a_greeting_is_chosen_in_the_card_and_not_exported() -> None:
    raw = v3(first_mes="one", alternate_greetings=["two"], extensions={"x": 1})
    chosen = with_greeting(raw, 1)
    assert read_card(chosen).chosen_greeting == "two"
    assert read_card(with_greeting(raw, 7)).chosen_greeting == "one"
    assert export_json(chosen) == export_json(raw)
    flat = with_greeting({"name": "Mira", "first_mes": "one"}, 0)
    assert read_card(flat).version == 1


def test_the_preview_says_what_is_used_kept_and_ignored() -> None:
    entries = [
        {"keys": ["a"], "content": "@@role system\n@@depth 1\nx", "enabled": True},
        {"keys": ["(?=a)"], "content": "x", "use_regex": True},
        {"keys": ["a"], "content": "x", "enabled": False},
        {"keys": [], "content": "y", "constant": True},
    ]
    card = v3(
        mes_example="<START>\n{{user}}: a\n{{char}}: b",
        first_mes="hi",
        alternate_greetings=["ho", "x" * 9000],
        scenario="{{getvar::x}}",
        creator_notes="notes",
        extensions={"fav": True},
        assets=[{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
        character_book={"entries": entries},
    )
    shown = preview(read_file(charx({**card, "spec_version": "3.1"}, ("x.png", b"x"))), has_picture=False)
    assert shown.used == (
        "description (9 characters)",
        "scenario (13 characters)",
        "2 greetings",
        "1 example exchange",
        "lorebook: 3 entries, 1 always",
    )
    assert shown.kept == ("creator’s notes", "list of 1 asset", "extensions: fav")
    assert shown.ignored == (
        "what is new since version 3.0: the card states a newer one",
        "1 packed file: not kept, and no export has them",
        "1 greeting longer than 8,000 characters",
        "macros that I do not know and leave as they are: {{getvar}}",
        "1 lorebook entry switched off or empty",
        "1 lorebook entry with patterns that I cannot search for (look-around, back references, or too large)",
        "decorators of the lorebook: @@role",
    )
    assert shown.notes == "notes"


def test_what_every_prompt_has_counts_for_the_limits() -> None:
    card = read_card(v2(system_prompt="S", personality="P", scenario="C", post_history_instructions="H"))
    assert limited_text(card) == "S\n\nA miller.\n\n{{char}}'s personality: P\n\nScenario: C\n\nH"
    assert limited_text(read_card(v2(mes_example="in rhymes"))).endswith("A miller.\n\nin rhymes")
    assert limited_text(read_card({"name": "a", "system_prompt": "only"})) == "only"


def test_no_repr_shows_what_a_card_says() -> None:
    card = read_card(v2(description="SECRET", character_book={"entries": [{"keys": ["SECRET"], "content": "SECRET"}]}))
    assert "SECRET" not in repr(card) + repr(card.book)
