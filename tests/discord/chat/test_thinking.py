"""A model that thinks, on Discord: members see that it thinks, then its answer and how long it thought."""

from __future__ import annotations

import re

import pytest

from tests.discord.harness import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

THOUGHTS = ("<th", "ink>", *(f"a secret of {number}, " for number in range(12)), "done</thi", "nk>\n\n")


async def test_members_see_that_it_thinks_and_then_only_the_answer(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply(*THOUGHTS, "Hello", " there", pace=0.25)
    question = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> hi")
    await here.discord.until(lambda: any("💭" in answer.content for answer in here.discord.answers(question)))
    [answer] = here.discord.answers(question)
    assert answer.content == "-# 💭 Thinking …"
    assert [button["label"] for button in answer.buttons()] == ["Stop"]
    [answer] = await here.discord.answered(question)
    assert re.fullmatch(r"-# 💭 Thought for [3-9] s\nHello there", answer.content)
    assert len(answer.edits) >= 2
    assert not any("secret" in text for _, text in answer.edits)
    again = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> and?")
    await here.discord.answered(again)
    assert "secret" not in str(here.engine.requests[-1].body)
    assert here.engine.requests[-1].messages[-2]["content"] == "Hello there"


async def test_thoughts_that_no_mark_opened_are_taken_back(here: World) -> None:
    guild, ann = await here.member()
    here.engine.reply("I wonder", *([" and wonder"] * 250), "\n</think>\n\n", "Hello", pace=0.005)
    question = await here.discord.say(guild, ann, f"<@{here.discord.bot.id}> hi")
    [answer] = await here.discord.answered(question)
    assert any("I wonder and wonder" in text for _, text in answer.edits), "it was shown before it was taken back"
    assert re.fullmatch(r"(-# 💭 Thought for \d+ s\n)?Hello", answer.content)
    assert here.discord.answers(question) == [answer]
