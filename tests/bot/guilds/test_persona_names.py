"""Names of personas that try to be something else."""

from __future__ import annotations

import pytest

from bot.errors import EmptyText
from bot.guilds.persona_checks import clean_name, required_name
from models.queries.tenants.personas import name_key


@pytest.mark.parametrize(
    "name",
    ["", "\u200b\u200d", "\u3164", "\u2800 \u2800", "\u115f\u1160", "\ufe0f", "\u034f",
     "\u202e", "\U000e0101", "\u0301"],
)  # fmt: skip
def test_attack_a_name_of_which_nothing_can_be_seen(name: str) -> None:
    with pytest.raises(EmptyText):
        required_name(name)


@pytest.mark.parametrize("name", ["\N{FAMILY}" * 32, "용", "!?", "<@123>", "@everyone", "❤️", "नमस्ते", "n°1"])
def test_names_that_can_be_seen(name: str) -> None:
    assert required_name(name) == name


@pytest.mark.parametrize(
    "name", ["JACK", "Jack\u3164", "ja\u200bck", "\u202ejack", "ｊａｃｋ", " jack\u2800", "ja\u034fck"]
)
def test_attack_a_name_that_looks_like_another_one(name: str) -> None:
    assert name_key(clean_name(name)) == name_key("Jack")
