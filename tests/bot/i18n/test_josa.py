"""Particles follow the sound of what stands before them."""

from __future__ import annotations

import pytest

from bot.i18n.josa import PARTICLES, final_consonant, format_korean, has_particles, particle, without_particles


@pytest.mark.parametrize(
    ("word", "topic", "subject", "object_", "and_", "to"),
    [
        ("라마", "는", "가", "를", "와", "로"),
        ("봇", "은", "이", "을", "과", "으로"),
        ("서울", "은", "이", "을", "과", "로"),
        ("닭", "은", "이", "을", "과", "으로"),
        ("Bot", "은", "이", "을", "과", "으로"),
        ("Discord", "는", "가", "를", "와", "로"),
        ("server", "는", "가", "를", "와", "로"),
        ("role", "은", "이", "을", "과", "로"),
        ("Jane", "은", "이", "을", "과", "으로"),
        ("Mike", "는", "가", "를", "와", "로"),
        ("King", "은", "이", "을", "과", "으로"),
        ("note", "는", "가", "를", "와", "로"),
        ("test", "는", "가", "를", "와", "로"),
        ("book", "은", "이", "을", "과", "으로"),
        ("Max", "는", "가", "를", "와", "로"),
        ("PDF", "는", "가", "를", "와", "로"),
        ("HTML", "은", "이", "을", "과", "로"),
    ],
)
def test_particles_of_words(word: str, topic: str, subject: str, object_: str, and_: str, to: str) -> None:
    found = [particle(word, name) for name in ("은는", "이가", "을를", "과와", "으로")]
    assert found == [topic, subject, object_, and_, to]


@pytest.mark.parametrize(
    ("number", "subject", "to"),
    [
        ("0", "이", "으로"),
        ("1", "이", "로"),
        ("2", "가", "로"),
        ("3", "이", "으로"),
        ("4", "가", "로"),
        ("5", "가", "로"),
        ("6", "이", "으로"),
        ("7", "이", "로"),
        ("8", "이", "로"),
        ("9", "가", "로"),
        ("10", "이", "으로"),
        ("1,000", "이", "으로"),
        ("20,000", "이", "으로"),
        ("1,000,000,000,000", "가", "로"),
        ("1,234,567", "이", "로"),
        ("50%", "가", "로"),
    ],
)
def test_particles_of_numbers(number: str, subject: str, to: str) -> None:
    assert (particle(number, "이가"), particle(number, "으로")) == (subject, to)


@pytest.mark.parametrize("text", ["**라마**", "“라마”", "`라마`", "라마)", "**“라마”** "])
def test_marks_are_looked_through(text: str) -> None:
    assert particle(text, "은는") == "는"


@pytest.mark.parametrize("text", ["<#123>", "<@&5>", "😀", "", "***", "北京", "ñ"])
def test_both_forms_stand_where_the_sound_is_not_known(text: str) -> None:
    assert final_consonant(text) is None
    assert [particle(text, name) for name in PARTICLES] == [unknown for _, _, unknown in PARTICLES.values()]


def test_a_template_is_filled_in_with_its_particles() -> None:
    text = "**{name}**{은는} {number:,}명{과와} {place!s}{으로} 갑니다. {{char}}{을를}"
    assert has_particles(text)
    assert without_particles(text) == "**{name}** {number:,}명 {place!s} 갑니다. {{char}}"
    shown = format_korean(text, name="라마", number=1234, place="서울")
    assert shown == "**라마**는 1,234명과 서울로 갑니다. {char}를"


def test_values_are_no_templates() -> None:
    assert format_korean("{name}{은는}", name="{은는}{other}") == "{은는}{other}는"
