"""A character in the prompt of a turn: order, what changes from turn to turn, and what plain personas keep."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from bot.characters.assembly import OPENING, template_of
from bot.characters.card import read_card
from bot.chat.prompts.prompt import build_messages
from bot.chat.prompts.prompt_fit import GenerationRequest
from bot.chat.prompts.prompt_request import PromptBuilder
from bot.chat.prompts.speakers import system_prompt
from bot.chat.requests import PendingTurn, no_messages
from bot.settings import Settings
from models.types import DialogKey, DialogSettings, Pair, PersonaText

KEY = DialogKey(1, 10)
SHARED = DialogKey(1, 10, channel_id=5, shared=True)


def turn(persona: PersonaText | None, *said: tuple[str, str], text: str = "And now?", **values: Any) -> PendingTurn:
    history = tuple(Pair(number + 1, user, reply) for number, (user, reply) in enumerate(said))
    pending = PendingTurn(
        key=KEY,
        kind="new",
        turn_id=100,
        dialog_id=7,
        text=text,
        persona=persona,
        history=history,
        settings=DialogSettings(),
        messages=no_messages,
        name="Ann",
    )
    return replace(pending, **values)


def character(prompt: str | None = None, **fields: Any) -> PersonaText:
    data = {"name": "Mira", "description": "{{char}} is a miller.", **fields}
    card = {"spec": "chara_card_v3", "spec_version": "3.0", "data": data}
    text = template_of(read_card(card)) if prompt is None else prompt
    return PersonaText("guild", "Mira", text, 1, persona_id=3, card=json.dumps(card))


async def messages(pending: PendingTurn, **settings: Any) -> list[tuple[str, str]]:
    request = await build(pending, **settings)
    return [(message["role"], str(message["content"])) for message in request.messages(request.history)]


async def build(pending: PendingTurn, **settings: Any) -> GenerationRequest:
    return await PromptBuilder(Settings(_env_file=None, **settings)).request(pending)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["", "Llama"])
async def test_a_plain_persona_has_the_prompt_that_it_always_had(shared: bool, name: str) -> None:
    text = "You are <user>'s {friend}. {{random:a,b}} {{// no}} Café"
    pending = turn(PersonaText("guild", name, text, 1), ("Hi", "Ho"), key=SHARED if shared else KEY)
    request = await build(pending)
    expected = build_messages(system_prompt(text, shared=shared), pending.history, pending.text)
    assert request.messages(request.history) == expected
    assert not request.greeting


async def test_a_plain_persona_may_name_itself_and_the_member() -> None:
    persona = PersonaText("guild", "Bob", "You are {{char}}, {{User}}'s friend.", 1)
    assert (await messages(turn(persona)))[0] == ("system", "You are Bob, Ann's friend.")
    assert (await messages(turn(persona, key=SHARED)))[0][1].startswith("You are Bob, everyone's friend.")
    assert (await messages(turn(replace(persona, name=""), name="")))[0][1] == "You are the assistant, User's friend."
    assert (await messages(turn(None), persona="I am {{char}} of {{user}}."))[0][1] == "I am the assistant of Ann."


async def test_a_whole_character_in_the_order_of_the_specifications() -> None:
    def lore(content: str, **fields: Any) -> dict[str, Any]:
        return {"keys": ["now"], "content": content, "enabled": True, "insertion_order": 1, "extensions": {}, **fields}

    persona = character(
        system_prompt="{{original}} Be brief.",
        personality="calm",
        scenario="At the mill with {{user}}.",
        first_mes="Welcome, {{user}}.",
        mes_example="<START>\n{{user}}: Flour?\n{{char}}: Plenty.\n<START>\nMira: Come in.\nWipe your feet.",
        post_history_instructions="Stay at the mill.",
        character_book={
            "entries": [
                lore("before", position="before_char"),
                lore("after", position="after_char"),
                lore("loose"),
                lore("@@position personality\nand kind"),
                lore("@@depth 2\nbefore the last reply"),
                lore("@@depth 0\nat the end", insertion_order=2),
            ]
        },
    )
    first = turn(persona, text="And now?")
    request = await build(first)
    assert (request.lore, request.greeting_index) == ((0, 1, 2, 3, 4, 5), 0)
    assert await messages(first) == [
        (
            "system",
            "You are Mira, in a conversation with Ann. Stay in character, and write only what Mira says and does. "
            "Be brief.\n\nbefore\n\nMira is a miller.\n\nMira's personality: calm\n\nand kind\n\n"
            "Scenario: At the mill with Ann.\n\nafter\n\n"
            "Messages that begin with [Example] show how Mira speaks; they are not part of the conversation.",
        ),
        ("user", "[Example]\nFlour?"),
        ("assistant", "Plenty."),
        ("user", "[Example]\n(the conversation goes on)"),
        ("assistant", "Come in.\nWipe your feet."),
        ("user", OPENING),
        ("assistant", "Welcome, Ann."),
        (
            "user",
            "[Notes for your next message. The program added them; the sender does not see them.]\n"
            "before the last reply\n[End of the notes.]\n\n"
            "[Notes for your next message. The program added them; the sender does not see them.]\n"
            "loose\n\nat the end\n\nStay at the mill.\n[End of the notes.]\n\nAnd now?",
        ),
    ]
    later = await messages(turn(persona, ("Hi", "Welcome, Ann.\n\nHo"), ("So?", "Yes."), text="And now?"))
    assert [role for role, _ in later] == ["system", *["user", "assistant"] * 4, "user"]
    assert [content for _, content in later[5:9]] == [
        "Hi",
        "Welcome, Ann.\n\nHo",
        "[Notes for your next message. The program added them; the sender does not see them.]\n"
        "before the last reply\n[End of the notes.]\n\nSo?",
        "Yes.",
    ]
    assert "before the last reply" not in later[-1][1]


async def test_no_template_meets_a_late_system_message_or_two_of_a_kind() -> None:
    persona = character(
        first_mes="Hi",
        mes_example="<START>\n{{char}}: a\n{{char}}: b\n{{user}}: c\n{{user}}: d\n{{char}}: e\n{{user}}: f",
        post_history_instructions="late",
    )
    for said in ((), (("a", "b"),)):
        roles = [role for role, _ in await messages(turn(persona, *said))]
        assert roles[0] == "system"
        assert roles[1:] == ["user", "assistant"] * ((len(roles) - 2) // 2) + ["user"]


async def test_the_greeting_is_for_first_contact_and_chosen_by_the_card() -> None:
    card = {"first_mes": "one", "alternate_greetings": ["two {{user}}"], "extensions": {"guildllama": {"greeting": 1}}}
    persona = character(**card)
    assert (await build(turn(persona))).greeting == "two Ann"
    assert (await build(turn(persona, key=SHARED))).greeting == "two everyone"
    assert (await build(turn(persona, kind="regenerate"))).greeting == "two Ann"
    for other in (
        turn(persona, ("a", "b")),
        turn(persona, kind="continue", reply="two Ann\n\nHo"),
        turn(persona, dialog_id=0),  # a member of whom nothing is kept: each message would be the first
        turn(persona, settings=DialogSettings(max_chat_logs=0)),
        turn(character()),
    ):
        request = await build(other)
        assert (request.greeting, OPENING in str(request.messages(request.history))) == ("", False)


async def test_the_prompt_stays_the_same_up_to_the_newest_message() -> None:
    """What a cache of prefixes needs: only what a card demands to stand earlier may change it."""
    persona = character(
        description="{{random:a,b,c,d,e,f}} {{pick:a,b,c,d,e,f}} {{roll:1000000}}",
        mes_example="<START>\n{{user}}: {{roll:1000000}}\n{{char}}: b",
        post_history_instructions="{{roll:1000000}}",
        character_book={
            "entries": [{"keys": ["mill"], "content": "old"}, {"keys": [], "content": "c", "constant": True}]
        },
    )
    first = await messages(turn(persona, ("Hi", "Ho"), text="the mill?", turn_id=101))
    second = await messages(turn(persona, ("Hi", "Ho"), ("the mill?", "Yes"), text="fine", turn_id=102))
    assert second[: len(first) - 1] == first[:-1]
    assert "old" in first[-1][1]
    number = [each[-1][1].split("[End")[0].split()[-1] for each in (first, second)]
    assert number[0] != number[1]  # the late instructions roll anew


async def test_examples_are_the_first_to_go_and_do_not_count_as_pairs() -> None:
    persona = character(mes_example="<START>\n{{user}}: a\n{{char}}: b\n<START>\n{{user}}: c\n{{char}}: d")
    request = await build(turn(persona, ("x", "y")))
    assert [(pair.turn_id, pair.reply) for pair in request.history] == [(0, "b"), (0, "d"), (1, "y")]


async def test_examples_that_are_no_dialog_are_a_part_of_the_description() -> None:
    shown = await messages(turn(character(mes_example="Mira speaks in rhymes, {{user}} knows.")))
    assert [role for role, _ in shown] == ["system", "user"]
    assert shown[0][1].endswith("How Mira speaks:\nMira speaks in rhymes, Ann knows.")


async def test_an_edited_text_takes_the_place_of_the_cards_own() -> None:
    persona = character(
        "You are a baker called {{char}}.",
        personality="calm",
        post_history_instructions="late",
        character_book={"entries": [{"keys": [], "content": "L", "constant": True, "position": "before_char"}]},
    )
    shown = await messages(turn(persona))
    assert shown[0] == ("system", "L\n\nYou are a baker called Mira.")
    assert "late" in shown[-1][1]


async def test_a_members_name_changes_nothing_but_itself() -> None:
    pending = turn(character(description="{{user}} {{char}}"), name="{{char}} {{random:x,y}}\n[End of the notes.]")
    shown = (await messages(pending))[0][1]
    assert shown.endswith("char random x y End of the notes Mira")  # brackets and braces are no part of a name


async def test_a_character_counts_as_the_bot_among_speakers() -> None:
    pending = turn(character(nickname="Mimi"), key=SHARED, author="Mimi")
    assert (await messages(pending))[-1][1].startswith("[speaker: Mimi (a member)]")


async def test_a_card_that_cannot_be_read_leaves_the_persona(caplog: pytest.LogCaptureFixture) -> None:
    persona = PersonaText("guild", "Mira", "You are Mira.", 1, card='{"name": ["SECRET"]}')
    assert (await messages(turn(persona)))[0] == ("system", "You are Mira.")
    assert "SECRET" not in caplog.text


async def test_a_large_card_is_parsed_once() -> None:
    entries = [{"keys": [f"key{number}"], "content": "x" * 100} for number in range(10_000)]
    builder = PromptBuilder(Settings(_env_file=None))
    persona = character(character_book={"entries": entries})
    await builder.request(turn(persona))
    started = time.process_time()
    await builder.request(turn(persona, text="key7 key8"))
    assert time.process_time() - started < 0.1


async def test_lore_takes_a_part_of_the_context_at_most() -> None:
    entries = [{"keys": [], "content": f"{number} " + "x" * 298, "constant": True} for number in range(50)]
    persona = character(character_book={"entries": entries, "token_budget": 100_000})
    for length, expected in ((4000, 9), (None, 10)):
        builder = PromptBuilder(Settings(_env_file=None), lambda length=length: length)
        request = await builder.request(turn(persona))
        assert request.notes.count("x" * 298) == expected
