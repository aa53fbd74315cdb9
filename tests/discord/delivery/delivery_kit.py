"""Replies of several messages in every kind of place, and the check that each of their chunks is shown exactly once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import text

from bot.discord_app.replies.quoting import quoted_question
from bot.discord_app.replies.sinks.sender import PLACEHOLDER
from bot.discord_app.splitting.reply_messages import final_messages
from tests.discord.harness import World, bot_database
from tests.fakes.discord.server import Channel, FakeDiscord, Guild, Interaction, Message, User
from tests.fakes.engine import Request, Script

PLACES = ("chat", "private", "mention", "direct")
_OPENING = re.compile(r"\A(<@\d+>\s?|-# I may not write in <#\d+>, so I answer here\.\n)")


def long_reply(label: str, *, messages: int) -> str:
    """A reply that takes so many Discord messages, each of which says which one it is."""
    parts = [f"{label} part {number} " + f"word{number} " * 190 for number in range(messages)]
    return "\n\n".join(part.strip() for part in parts)


@dataclass
class Asked:
    """A question in one place, and the reply that the engine gives to it."""

    place: str
    user: User
    guild: Guild | None
    question: str
    reply: str
    asked: Interaction | Message
    discord_messages: Callable[[], list[Message]] = field(repr=False)
    direct: Channel = field(repr=False)

    def expected(self) -> list[str]:
        """The texts of the messages of the whole reply."""
        prefix = quoted_question(self.question) if self.place == "chat" else ""
        return [each.strip() for each in final_messages(prefix + self.reply)[0]]

    def messages(self) -> list[Message]:
        """The bot's messages in its channel and in the asker's direct messages, in order, without strays."""
        return [each for each in self.discord_messages() if each.content != PLACEHOLDER]

    def texts(self) -> list[str]:
        """What they say, without what names the asker. A message of nothing else is left out.

        A late answer names the asker in place of the quoted question; it counts as quoted.
        """
        found = [_OPENING.sub("", each.content, count=1) for each in self.messages()]
        said = [each for each in found if each]
        quote = quoted_question(self.question) if self.place == "chat" else ""
        if said and quote and not said[0].startswith(quote.strip()) and said[0] == self.reply[: len(said[0])]:
            said[0] = quote + said[0]
        return said

    def complete(self) -> bool:
        """Whether all of it is shown, with the buttons under the last message."""
        shown = self.messages()
        return self.texts() == self.expected() and not any(each.runs() for each in shown)

    def check(self) -> None:
        """Each chunk exactly once and in order, the buttons under the last message only."""
        shown = self.messages()
        assert self.texts() == self.expected(), [each[:60] for each in self.texts()]
        assert not any(message.buttons() for message in shown[:-1])
        in_private = self.place == "private" and not shown[-1].ephemeral  # where no button would work
        assert bool(shown[-1].buttons()) is not in_private
        has_file = final_messages(self.reply)[1] is not None
        assert [bool(each.attachments) for each in shown] == [False] * (len(shown) - 1) + [has_file]
        if has_file:
            assert shown[-1].attachments[0].content.decode().endswith(self.reply)


async def ask_in(here: World, place: str, question: str, reply: str) -> Asked:
    """Ask as a new member of a new guild. The engine must know the reply to the question."""
    guild, user = await here.member(question.replace(" ", ""))
    direct = here.discord.dm(user)
    if place == "mention":
        asked: Interaction | Message = await here.discord.say(guild, user, f"<@{here.discord.bot.id}> {question}")
    elif place == "direct":
        asked = await here.discord.say(user, user, question)
    else:
        asked = await here.discord.chat(guild, user, question, private=place == "private")

    def messages() -> list[Message]:
        channels = (guild.channel, direct)
        return sorted(
            (each for each in here.discord.rest.messages.values()
             if each.channel in channels and each.author is here.discord.bot and not each.deleted),
            key=lambda each: (channels.index(each.channel), each.id),
        )  # fmt: skip

    return Asked(place, user, guild, question, reply, asked, messages, direct)


async def unfinished(url: str) -> list[str]:
    """What is not as it should be once everything is shown: open deliveries, kept texts and tokens."""
    database = await bot_database(url)
    try:
        async with database.read() as session:
            rows = await session.execute(
                text(
                    "SELECT deliveries.id, state, reply_token IS NULL, count(content) FROM deliveries "
                    "LEFT JOIN delivery_messages ON delivery_id = deliveries.id GROUP BY 1, 2, 3"
                )
            )
            found = [tuple(row) for row in rows]
        return [str(row) for row in found if row[1] != "done" or not row[2] or row[3]]
    finally:
        await database.close()


async def ready_deliveries(url: str) -> int:
    """How many stored replies are not shown in full."""
    return await _count(url, "SELECT count(*) FROM deliveries WHERE state = 'ready'")


async def finished_turns(url: str) -> int:
    """How many replies are stored."""
    return await _count(url, "SELECT count(*) FROM turns WHERE status = 'done'")


async def _count(url: str, statement: str) -> int:
    database = await bot_database(url)
    try:
        async with database.read() as session:
            return int((await session.execute(text(statement))).scalar_one())
    finally:
        await database.close()


def unlimited(discord: FakeDiscord) -> None:
    """Discord's limits are tested elsewhere; here they would only make the tests wait."""
    for kind in ("webhook", "message_create", "message_edit", "message_delete"):
        discord.rest.limits[kind] = (1000, 1.0)


class Replies:
    """Answers each question with the reply that was planned for it."""

    def __init__(self, here: World) -> None:
        self.replies: dict[str, str] = {}
        self.hangs = False
        here.engine.default = self.script

    def script(self, request: Request) -> Script:
        return Script(deltas=(self.replies[request.last],), hang=self.hangs)


async def ask(here: World, engine: Replies, place: str, question: str, *, messages: int = 5) -> Asked:
    engine.replies[question] = long_reply(question, messages=messages)
    return await ask_in(here, place, question, engine.replies[question])


async def shown_in_full(here: World, url: str, *asked: Asked) -> None:
    """Wait until the replies are complete, then check them and the records."""
    try:
        await here.discord.until(lambda: all(each.complete() for each in asked), timeout=40)
    except TimeoutError:
        print(here.bot.log()[-3000:])  # noqa: T201
    for each in asked:
        each.check()
    await recorded(url)


async def recorded(url: str) -> None:
    """Wait until the database says that everything is shown."""
    for _ in range(100):  # discord.py returns from the last request that a limit allows when the limit is over
        if not (left := await unfinished(url)):
            return
        await asyncio.sleep(0.1)
    assert left == []
