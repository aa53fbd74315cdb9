"""What a guild keeps out, through the bot: of messages, of replies while they grow, of prompts, and of the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.queries.inspection import turn_lines
from tests.discord.commands.command_kit import audited
from tests.discord.harness import World, world
from tests.fakes.moderation import FakeModeration
from tests.selection import SQLITE

pytestmark = pytest.mark.asyncio(loop_scope="module")
DATABASE = "postgres"

KEPT_OUT = "This guild keeps something out of our conversations"
REPLACED = "My answer held something that this guild keeps out"


async def test_words_are_kept_out_of_messages_and_of_the_log(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    assert (await here.ask(guild, ann, "What the gosh")).reply() == "You said: What the gosh"  # off by default
    added = await here.use(guild, boss, "config filter words", action="add", words="gosh*, Very Silly; ***")
    assert added.reply() == (
        "2 words were added. 1 was left out: a word needs a letter or a digit, and has room for 100 characters. "
        "2 words are filtered now."
    )
    asked = len(here.engine.requests)
    refused = await here.ask(guild, ann, "GOSHDARN it")
    assert KEPT_OUT in refused.reply()
    assert refused.messages()[0].ephemeral
    said = await here.mention(guild, ann, "that is very, silly!")
    [answer] = await here.discord.answered(said)
    assert KEPT_OUT in answer.content
    assert "error" not in answer.content
    assert len(here.engine.requests) == asked
    assert "GOSHDARN" not in (await here.use(guild, ann, "history show")).reply()
    assert (await here.ask(guild, ann, "Fine")).reply() == "You said: Fine"
    assert "silly" not in here.engine.requests[-1].last
    other, bob = await here.member("bob")
    assert (await here.ask(other, bob, "gosh")).reply() == "You said: gosh"
    shown = await here.use(guild, boss, "config filter words", action="show")
    assert "||gosh\\*|| ||very silly||" in shown.reply()
    assert "`filter words` **2 words**" in (await here.use(guild, boss, "config show")).reply()
    removed = await here.use(guild, boss, "config filter words", action="remove", words="GOSH*")
    assert "1 word was removed. 1 word is filtered now." in removed.reply()
    assert (await here.ask(guild, ann, "gosh")).reply() == "You said: gosh"
    cleared = await here.use(guild, boss, "config filter words", action="clear")
    assert "1 word was removed. 0 words are filtered now." in cleared.reply()
    again = await here.use(guild, boss, "config filter words", action="remove", words="gosh")
    assert "0 words were removed. 0 words are filtered now." in again.reply()
    details = [each.details for each in await audited(here, guild)]
    assert details == [{"filter_words": {"old": old, "new": new}} for old, new in ((1, 0), (2, 1), (0, 2))]
    log = here.bot.log().casefold()
    assert not any(word in log for word in ("gosh", "silly"))


async def test_only_managers_may_and_the_list_has_its_limits(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    assert "Manage Server" in (await here.use(guild, ann, "config filter words", action="show")).reply()
    many = ",".join(f"word{number}" for number in range(200))
    await here.use(guild, boss, "config filter words", action="add", words=many)
    more = await here.use(guild, boss, "config filter words", action="add", words="onemore")
    assert "There is room for 200 filtered words" in more.reply()
    await here.use(guild, boss, "config reset", setting="filter")
    assert "No words are filtered" in (await here.use(guild, boss, "config filter words", action="show")).reply()
    none = await here.use(guild, boss, "config filter moderation", enabled=True)
    assert none.reply() == "The owner of this bot offers no moderation."


async def test_a_filtered_word_in_a_reply_is_never_shown_and_stands_in_no_prompt(both: World) -> None:
    here = both
    guild, boss = await here.member("boss", manager=True)
    ann = here.discord.user("ann")
    await here.use(guild, boss, "config filter words", action="add", words="blast")
    here.engine.reply("Here ", "comes ", "a ", "bla", "st", " and more", " of it", pace=0.2)
    question = await here.mention(guild, ann, "Tell me")
    [answer] = await here.discord.answered(question)
    assert answer.content.startswith(REPLACED)
    assert any("comes" in text for _, text in answer.edits)  # it was shown while it grew
    assert not any("bla" in text for _, text in answer.edits)
    assert (await here.ask(guild, ann, "And now?")).reply() == "You said: And now?"
    assert [message["content"] for message in here.engine.requests[-1].messages[1:]] == ["And now?"]
    here.engine.reply("It was ", "blasted", " hot")
    assert (await here.ask(guild, ann, "How was it?")).reply() == "It was blasted hot"
    # Another reply to the first question takes the place of the one that was kept out.
    await here.discord.press(answer, ann, "Regenerate")
    await here.discord.until(lambda: answer.content == "You said: Tell me")
    await here.ask(guild, ann, "Last")
    assert "Tell me" in str(here.engine.requests[-1].messages)
    assert "blast" not in here.bot.log()


@SQLITE
async def test_moderation_checks_before_and_after_and_is_closed_while_it_is_down(
    database_url: str, tmp_path: Path
) -> None:
    async with FakeModeration() as endpoint:
        endpoint.scores = {"hit": ("violence", 0.9)}
        settings = {"MODERATION_URL": endpoint.url, "MODERATION_API_KEY": "secret", "MODERATION_MODEL": "some"}
        async with world(database_url, tmp_path, **settings) as here:
            guild, boss = await here.member("boss", manager=True)
            ann = here.discord.user("ann")
            assert (await here.ask(guild, ann, "hit")).reply() == "You said: hit"
            assert endpoint.texts == []
            on = await here.use(guild, boss, "config filter moderation", enabled=True)
            assert "its own judgement counts" in on.reply()
            assert KEPT_OUT in (await here.ask(guild, ann, "hit me")).reply()
            here.engine.reply("I would ", "hit ", "you", *" and you" * 2, pace=0.2)
            question = await here.mention(guild, ann, "What would you do?")
            [answer] = await here.discord.answered(question)
            assert answer.content.startswith(REPLACED)
            shown = [text for _, text in answer.edits]
            assert not any("would" in text for text in shown)  # nothing is shown before it is judged
            assert "I am writing" in shown[0]
            never = await here.use(guild, boss, "config filter threshold", category="Violence", score=1.0)
            assert "`violence` never" in never.reply()
            assert (await here.ask(guild, ann, "hit")).reply() == "You said: hit"
            endpoint.status = 500
            down = await here.ask(guild, ann, "hello")
            assert "the check does not work right now" in down.reply()
            endpoint.status = 200
            assert (await here.ask(guild, ann, "hello")).reply() == "You said: hello"
            log = here.bot.log()
            assert "a message could not be checked" in log
            assert "hit me" not in log
            async with here.database() as database, database.read() as session:
                lines = [line for dialog in range(1, 4) for line in await turn_lines(session, dialog_id=dialog)]
            assert "filtered" in {line.finish_reason for line in lines}
