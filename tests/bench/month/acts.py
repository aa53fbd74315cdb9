"""What members do, one act at a time, and what became of each: answered, refused, or not heard.

An answer is the engine's, in full; anything else that the bot says is counted by its words, with digits and names taken
out. Knows no database.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.bench.month.engine import END, answer_to
from tests.bench.month.town import Member, Town
from tests.fakes.discord.server import FakeDiscord, Interaction, Message

TIMEOUT = 30.0  # seconds of the real clock
SILENCE = 5.0
"""Seconds after which a mention beyond a limit counts as refused in silence: the bot says so once a minute."""
ANSWERED, SILENT = "answered", "refused in silence"
NOT_HEARD = "not acknowledged in time"
NEVER_ENDED = "never ended"
"""A command that was acknowledged, or a mention. Only of a bot that ended before it had stored the message."""
SHARES = {
    "chat": 0.42, "mention": 0.22, "reply": 0.14, "regenerate": 0.08, "reset": 0.05, "persona": 0.03,
    "remember": 0.04, "quota": 0.02,
}  # fmt: skip
"""Of what members do with the bot."""
GOES_ON = 0.4
"""How often somebody does another thing after one."""
READING = 0.3
"""Seconds between the two."""
WORDS = ("rain", "hill", "river", "lamp", "bread", "window", "garden", "letter", "winter", "train", "music", "paper",
         "stone", "bird", "table", "morning")  # fmt: skip


@dataclass(slots=True)
class Question:
    """A message that asks for an answer. `id`: of the interaction or the message; `asked_at`: by the month's clock."""

    name: str
    id: int
    guild_id: int
    asked_at: float
    kind: str
    outcome: str = ""
    shown: str = ""
    """What stood on Discord of an answer that never ended."""


@dataclass(slots=True)
class Today:
    """What happened since the last sample; times in seconds."""

    acknowledged: list[float] = field(default_factory=list)
    replied: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    acts: Counter[str] = field(default_factory=Counter)
    chatter: int = 0


class Acts:
    """Members and what they did. `quota`: how many messages a member and a guild have a day."""

    def __init__(self, discord: FakeDiscord, town: Town, *, member_quota: int, guild_quota: int) -> None:
        self.discord = discord
        self.town = town
        self.member_quota = member_quota
        self.guild_quota = guild_quota
        self.questions: list[Question] = []
        self.twice: list[str] = []
        self.today = Today()
        self._numbers = itertools.count(1)
        self._answers: defaultdict[int, list[Message]] = defaultdict(list)
        keep = discord.rest.keep

        def keep_and_note(message: Message) -> None:
            if message.id not in discord.rest.messages and message.reference and message.author is discord.bot:
                self._answers[message.reference.id].append(message)
            keep(message)

        discord.rest.keep = keep_and_note  # type: ignore[method-assign]

    async def visit(self) -> None:
        """Somebody comes, unless they still wait for the last thing they did, does something, and perhaps goes on."""
        member = self.town.someone()
        if member.busy:
            return
        member.busy = True
        try:
            await self._act(member)
            while self.town.rng.random() < GOES_ON:
                await asyncio.sleep(READING)
                await self._act(member)
        finally:
            member.busy = False

    async def _act(self, member: Member) -> None:
        [kind] = self.town.rng.choices(list(SHARES), list(SHARES.values()))
        can_reply = member.last is not None and member.last.interaction is None and not member.last.deleted
        can_press = member.last is not None and any(
            button.get("label") == "Regenerate" for button in member.last.buttons()
        )
        if (kind == "reply" and not can_reply) or (kind == "regenerate" and not can_press):
            kind = "mention"
        if kind == "remember" and not member.home.remembers:
            kind = "chat"
        self.today.acts[kind] += 1
        await getattr(self, f"_{kind}")(member)

    async def chatter(self) -> None:
        """Somebody says something that is not for the bot."""
        member = self.town.someone()
        self.today.chatter += 1
        await self.discord.say(member.channel, member.user, self._text("so"))

    # ── acts ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _chat(self, member: Member) -> None:
        name, began = self._name(), time.monotonic()
        asked = await self.discord.chat(member.channel, member.user, self._text(name, member))
        question = self._ask("chat", name, asked.id, member)
        if not await self._acknowledged(asked, began):
            self._end(question, NOT_HEARD)
            return
        if not await self._until(asked.done):
            self._end(question, NEVER_ENDED, asked.messages())
            return
        shown = asked.messages()
        if len(shown) != 1:
            self.twice.append(name)
        self._answered(question, member, shown[0], began)

    async def _mention(self, member: Member, reply_to: Message | None = None) -> None:
        name, began = self._name(), time.monotonic()
        text = f"<@{self.discord.bot.id}> {self._text(name, member)}"
        limited = self._is_over(member)
        asked = await self.discord.say(member.channel, member.user, text, reply_to=reply_to)
        question = self._ask("mention", name, asked.id, member)
        if not await self._until(lambda: self._answers[asked.id], SILENCE if limited else TIMEOUT):
            self._end(question, SILENT if limited else NEVER_ENDED)
            return
        if not await self._until(lambda: not any(each.runs() for each in self._answers[asked.id])):
            self._end(question, NEVER_ENDED, self._answers[asked.id])
            return
        shown = [each for each in self._answers[asked.id] if not each.deleted]
        if len(shown) != 1:
            self.twice.append(name)
        self._answered(question, member, shown[0], began)

    async def _reply(self, member: Member) -> None:
        await self._mention(member, reply_to=member.last)

    async def _regenerate(self, member: Member) -> None:
        assert member.last
        began = time.monotonic()
        self.town.asked_today.update([member.user.id, member.home.guild.id])
        pressed = await self.discord.press(member.last, member.user, label="Regenerate")
        if await self._acknowledged(pressed, began):
            await self._until(lambda: pressed.done() and not (member.last and member.last.runs()))

    async def _reset(self, member: Member) -> None:
        await self._command(member, "reset")

    async def _quota(self, member: Member) -> None:
        await self._command(member, "quota")

    async def _persona(self, member: Member) -> None:
        began = time.monotonic()
        prompt = f"You are {' '.join(self.town.rng.sample(WORDS, 12))}. Answer briefly."
        home = member.home
        used = await self.discord.command(home.guild, home.manager, "persona set", prompt=prompt)
        if await self._acknowledged(used, began):
            await self._until(used.done)

    async def _remember(self, member: Member) -> None:
        if not member.remembered:
            member.remembered = True
            await self._command(member, "memory on")
        await self._command(member, "memory add", note=f"I like {' and '.join(self.town.rng.sample(WORDS, 2))}")

    async def _command(self, member: Member, name: str, /, **options: str) -> None:
        began = time.monotonic()
        used = await self.discord.command(member.channel, member.user, name, **options)
        if await self._acknowledged(used, began):
            await self._until(used.done)

    # ── parts of them ────────────────────────────────────────────────────────────────────────────────────────────────

    def _name(self) -> str:
        return f"q{next(self._numbers)}"

    def _text(self, name: str, member: Member | None = None) -> str:
        """A message with this name in it; of somebody who is remembered, sometimes one worth remembering."""
        rest = " ".join(self.town.rng.choices(WORDS, k=self.town.rng.randint(4, 24)))
        return f"{'I like' if member and member.remembered else 'Tell me of'} {name} {rest}"

    def _ask(self, kind: str, name: str, number: int, member: Member) -> Question:
        question = Question(name, number, member.home.guild.id, time.time(), kind)
        self.questions.append(question)
        self.town.asked_today.update([member.user.id, member.home.guild.id])
        return question

    def _is_over(self, member: Member) -> bool:
        asked = self.town.asked_today
        return asked[member.user.id] >= self.member_quota or asked[member.home.guild.id] >= self.guild_quota

    async def _acknowledged(self, asked: Interaction, began: float) -> bool:
        if not await self._until(lambda: asked.callback_type is not None, 4.0):
            return False
        self.today.acknowledged.append(time.monotonic() - began)
        return True

    def _answered(self, question: Question, member: Member, shown: Message, began: float) -> None:
        if answer_to(question.name) in shown.content and END in shown.content:
            self.today.replied.append(time.monotonic() - began)
            member.last = shown
            self._end(question, ANSWERED)
        else:
            self._end(question, said(shown.content))

    def _end(self, question: Question, outcome: str, shown: Sequence[Message] = ()) -> None:
        question.outcome = outcome
        question.shown = "; ".join(f"{each.content[:40]} {[b.get('label') for b in each.buttons()]}" for each in shown)
        self.today.outcomes[outcome] += 1

    async def _until(self, holds: Callable[[], object], timeout: float = TIMEOUT) -> bool:
        """Wait until this holds; it can change with each request of the bot."""
        try:
            async with asyncio.timeout(timeout):
                while not holds():
                    await self.discord.rest.changed.wait()
        except TimeoutError:
            return False
        return True

    def forget(self) -> None:
        """Of the answers that the fake remembers, keep none: a month of them is not kept."""
        self._answers.clear()


def said(content: str) -> str:
    """What the bot said, as a key: the last line of it without numbers, names and links."""
    lines = [line for line in content.split("\n") if line.strip() and not line.startswith("> ")]
    text = re.sub(r"\(error \w+\)|<[^>]*>|\*\*[^*]*\*\*|\d+", "#", " ".join(lines))
    return text[:80].strip() or "(nothing)"
