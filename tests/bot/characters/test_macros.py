"""Macros: those of the specification's text, and what members and cards may try with them."""

from __future__ import annotations

import time

import pytest

from bot.characters.macros import MAX_CHARS, Macros, expand, expand_names, unknown_macros

M = Macros("Mira", "Ann", seed="s", pick_seed="p")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{char}} and {{user}}", "Mira and Ann"),
        ("{{CHAR}} <BOT> <user> <CHAR> {{User}}", "Mira Mira Ann Mira Ann"),
        ("a{{// a note}}b{{//}}c", "abc"),
        ("a{{comment: seen by editors}}b", "ab"),
        ("a{{hidden_key:dragon}}b", "ab"),
        ("{{reverse:Hello}}", "olleH"),
        ("{{reverse:{{char}}}}", "ariM"),
        ("{{random:same,same}} {{pick:{{user}},{{user}}}}", "same Ann"),
        (r"{{random:a\,b}}", "a,b"),
        ("{{pick::x,x}}", "x"),
        ("{{random::a, b::a, b}}", "a, b"),
        ("{{roll:1}} {{roll:d1}} {{ROLL:D1}}", "1 1 1"),
        (
            "{{unknown}} {{unknown:{{char}}}} {{roll:x}} {{roll:0}}",
            "{{unknown}} {{unknown:Mira}} {{roll:x}} {{roll:0}}",
        ),
        ("{{original}}", "{{original}}"),
        ("{{char", "{{char"),
        ("char}} {{user}}", "char}} Ann"),
        ("{{char {{user}}", "{{char Ann"),
        ("{single} { {char} }", "{single} { {char} }"),
        ("", ""),
    ],
)
def test_what_a_macro_becomes(text: str, expected: str) -> None:
    assert expand(text, M) == expected


def test_original_is_a_macro_where_there_is_one() -> None:
    assert expand("{{original}} More.", Macros("a", "b", original="You are {{char}}.")) == "You are {{char}}. More."


def test_a_choice_is_among_the_options_and_depends_on_the_seed() -> None:
    seen = {expand("{{random:a,b,c}}", Macros("x", "y", seed=str(seed))) for seed in range(50)}
    assert seen == {"a", "b", "c"}
    rolls = {expand("{{roll:d6}}", Macros("x", "y", seed=str(seed))) for seed in range(200)}
    assert rolls == set("123456")
    text = "{{pick:a,b,c}}{{pick:a,b,c}}{{pick:a,b,c}}{{pick:a,b,c}}{{pick:a,b,c}}"
    assert {expand(text, Macros("x", "y", seed=str(seed), pick_seed="1")) for seed in range(20)} == {expand(
        text, Macros("x", "y", pick_seed="1")
    )}  # fmt: skip
    assert len(set(expand(text, Macros("x", "y", pick_seed="1")))) > 1  # each pick of a text for itself


@pytest.mark.parametrize("name", ["{{char}}", "{{user}}", "}}", "{{", "{{random:a,b}}", "a,b", "<bot>", "\\,"])
def test_a_name_is_never_read_again(name: str) -> None:
    macros = Macros("Mira", name, seed="1")
    assert expand("[{{user}}]", macros) == f"[{name}]"
    assert expand("{{random:{{user}},{{user}}}}", macros) == name
    assert expand("{{reverse:{{user}}}}", macros) == name[::-1]
    assert expand_names("[{{user}}]", "Mira", name) == f"[{name}]"


@pytest.mark.parametrize(
    "text",
    [
        "{{" * 1000 + "char" + "}}" * 1000,
        "{{reverse:" * 1000 + "x" * 1000 + "}}" * 1000,
        "{{random:" * 1000 + "a,b" + "}}" * 1000,
        "{{" * 200_000,
        "}}" * 200_000,
        "{{user}}" * 100_000,
        "{{reverse:" * 23 + "x" * 300_000 + "}}" * 23,
        "{{random:" + "," * 300_000 + "}}",
    ],
    ids=["braces", "reverse", "random", "open", "closed", "many", "long", "commas"],
)
def test_work_and_growth_are_bounded(text: str) -> None:
    started = time.process_time()
    grown = expand(text, Macros("c" * 80, "u" * 80))
    assert time.process_time() - started < 2
    assert len(grown) <= MAX_CHARS


def test_what_is_nested_too_deeply_stays() -> None:
    text = "{{" * 1000 + "char" + "}}" * 1000 + "{{char}}"
    assert expand(text, M) == "{{" * 1000 + "char" + "}}" * 1000 + "Mira"


def test_a_plain_persona_has_two_macros_and_no_others() -> None:
    text = "{{char}} {{user}} <user> {{random:a}} {{// x}}"
    assert expand_names(text, "Mira", "Ann") == "Mira Ann <user> {{random:a}} {{// x}}"


def test_what_is_no_macro_here_is_named() -> None:
    text = (
        "{{char}} {{ user }} {{GetVar::x}} {{random:{{time}}}} {{// {{note}} }} {{roll 6}} {{ {{}} {{9}} {{" + "a" * 99
    )
    assert unknown_macros(text) == ("getvar", "time", "note")
    assert unknown_macros("{{" * 100_000) == ()
