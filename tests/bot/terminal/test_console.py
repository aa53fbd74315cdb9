"""The terminal chat, line by line: what a person types and what they see, with the rows behind it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Sequence

import pytest

from bot.characters.card import read_card
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.engine_client.model_list import ModelList
from bot.guilds.personas import PersonaService
from bot.services import Services
from bot.settings import Settings
from bot.terminal.console import Console
from bot.terminal.screen import PlainScreen
from models.database import Database
from models.types import DialogKey
from tests.bot.stored_turns import turns
from tests.fakes.engine import FakeEngine

KEY = DialogKey(7, 70)


class Scripted:
    """A screen with lines in and a transcript out."""

    interactive = False

    def __init__(self, *lines: str | type[KeyboardInterrupt]) -> None:
        self.lines = deque(lines)
        self.transcript: list[str] = []
        self.notes: list[str] = []
        self.streamed = ""
        self.heard = asyncio.Event()

    async def ask(self) -> str | None:
        if not self.lines:
            return None
        line = self.lines.popleft()
        if not isinstance(line, str):
            raise line
        return line

    def write(self, text: str) -> None:
        self.streamed += text
        self.heard.set()

    def line(self, text: str = "") -> None:
        self.transcript.append(self.streamed + text)
        self.streamed = ""

    def note(self, text: str) -> None:
        self.notes.append(text)

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.transcript += [f"{user} -> {reply}" for user, reply in pairs]

    @contextlib.asynccontextmanager
    async def busy(self, text: str) -> AsyncIterator[None]:
        yield


@pytest.fixture
async def services(database: Database, engine: FakeEngine) -> AsyncIterator[Services]:
    settings = Settings(_env_file=None, persona="the default")
    async with EngineClient(engine.url) as client:
        chat = ChatService(database=database, engine=client, settings=settings)
        yield Services(settings, database, ModelList(client), None, chat, PersonaService(database, client, settings))
        await chat.close(0)


async def play(services: Services, *lines: str | type[KeyboardInterrupt]) -> Scripted:
    screen = Scripted(*lines)
    await asyncio.wait_for(Console(services, KEY, screen).run(), 20)
    return screen


async def test_a_conversation(services: Services, engine: FakeEngine, database: Database):
    engine.reply("Hel", "lo!")
    screen = await play(services, "Hi", "", "   ", "What did I say?", "/history", "/quit", "never sent")
    assert screen.transcript == [
        "Hello!",
        "You said: What did I say?",
        "Hi -> Hello!",
        "What did I say? -> You said: What did I say?",
    ]
    assert [turn.user for turn in await turns(database)] == ["Hi", "What did I say?"]
    assert [message["content"] for message in engine.requests[1].messages] == [
        "the default",
        "Hi",
        "Hello!",
        "What did I say?",
    ]


async def test_reset(services: Services, engine: FakeEngine):
    screen = await play(services, "/reset", "one", "two", "/reset", "/history", "three")
    assert screen.notes == ["Nothing to forget.", "Forgotten: 2 exchanges.", "Nothing yet."]
    assert len(engine.requests[-1].messages) == 2


async def test_persona(services: Services, engine: FakeEngine):
    screen = await play(
        services, "/persona", "/persona You are a cat.", "meow?", "/persona", "/reset", "/persona clear", "/persona"
    )
    assert screen.transcript == [
        "the default\n(default persona)",
        "You said: meow?",
        "You are a cat.\n(member persona)",
        "the default\n(default persona)",
    ]
    assert engine.requests[0].messages[0] == {"role": "system", "content": "You are a cat."}


async def test_a_character_greets_before_its_first_reply(services: Services, engine: FakeEngine):
    card = read_card({"name": "Mira", "description": "A miller.", "first_mes": "Come in, {{user}}."})
    stored = await services.personas.cards.store(KEY, card, own=True, name="Mira", actor_id=70)
    assert await services.personas.assign(KEY, "member", stored.persona_id)
    engine.reply("Hello ", "there.")
    engine.reply("Yes.")
    screen = await play(services, "Hi", "Really?")
    assert screen.transcript == ["Come in, User.\n\nHello there.", "Yes."]


async def test_errors_are_lines_and_the_chat_goes_on(services: Services, engine: FakeEngine):
    engine.fail(500)
    screen = await play(services, "x" * 5000, "broken", "/persona " + "y" * 5000, "/nope", "fine", "/help")
    assert "5,000 characters, and the limit is 4,000" in screen.notes[0]
    assert "cannot be reached" in screen.notes[1]
    assert "persona is too long" in screen.notes[2]
    assert "no command /nope" in screen.notes[3]
    assert "/reset" in screen.notes[4]
    assert screen.transcript == ["You said: fine"]


async def test_a_reply_that_breaks_off_ends_its_line(services: Services, engine: FakeEngine):
    engine.drop("half a ")
    screen = await play(services, "break", "next")
    assert screen.transcript == ["half a ", "You said: next"]
    assert "stopped in the middle" in screen.notes[0]


async def test_no_answer_and_a_cut_one_say_so(services: Services, engine: FakeEngine):
    engine.reply()
    engine.reply("and so on", finish_reason="length")
    engine.reply("on and on", finish_reason="repetition")
    screen = await play(services, "silence", "go on", "again")
    assert screen.transcript == ["(no answer)", "and so on", "on and on"]
    assert "cut off" in screen.notes[0]
    assert "repeat itself" in screen.notes[1]


async def test_ctrl_c_stops_a_reply_and_the_chat_goes_on(services: Services, engine: FakeEngine):
    engine.hang("Once upon a time")
    screen, before = Scripted("tell me", "go on"), signal.getsignal(signal.SIGINT)
    running = asyncio.create_task(Console(services, KEY, screen).run())
    await asyncio.wait_for(screen.heard.wait(), 20)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(running, 20)
    assert screen.transcript == ["Once upon a time", "You said: go on"]
    assert screen.notes == ["(stopped)"]
    assert signal.getsignal(signal.SIGINT) is before


async def test_two_ctrl_c_at_the_prompt_leave(services: Services, engine: FakeEngine):
    screen = await play(services, KeyboardInterrupt, "hello", KeyboardInterrupt, KeyboardInterrupt, "never sent")
    assert screen.transcript == ["You said: hello"]
    assert len(engine.requests) == 1


async def test_plain_screen_keeps_replies_apart_from_notes(services: Services, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bot.terminal.screen.NOTICE_AFTER", 0.05)
    out, notes = io.StringIO(), io.StringIO()
    screen = PlainScreen(io.BytesIO("Grüße\r\n\xff".encode() + b"\xff\n/reset\n"), out, notes)
    async with screen.busy("Working ..."):
        await asyncio.sleep(0.2)
    monkeypatch.undo()
    await asyncio.wait_for(Console(services, KEY, screen).run(), 20)
    assert out.getvalue() == "You said: Grüße\nYou said: ÿ\ufffd\n"
    assert notes.getvalue() == "Working ...\nForgotten: 2 exchanges.\n"


@pytest.mark.parametrize("answers", [True, False])
async def test_a_better_model_is_named_and_never_waited_for(
    services: Services, monkeypatch: pytest.MonkeyPatch, answers: bool
):
    async def better_model(settings: Settings) -> str | None:
        if not answers:
            await asyncio.sleep(60)
        return "a better one"

    async def wait_for_engine(self: Console) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("bot.terminal.console.better_model", better_model)
    monkeypatch.setattr(Console, "wait_for_engine", wait_for_engine)
    screen = Scripted("/quit")
    screen.interactive = True
    await asyncio.wait_for(Console(services, KEY, screen).run(), 10)
    assert ("a better one" in screen.notes) is answers
