"""The terminal chat: the same use cases as on Discord, as any member of any guild, line by line.

Knows the commands and their answers; `bot.terminal.screen` knows how they look.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

from bot.chat.reply.generation import REPETITION
from bot.chat.requests import ChatRequest, PendingTurn
from bot.errors import BotError
from bot.hub.hint import better_model
from bot.services import Services
from bot.terminal.screen import Screen
from bot.text import thought_for
from models.types import DialogKey

HELP = """/reset          forget this conversation (the persona stays)
/persona        show the persona
/persona TEXT   give the bot another one, for you
/persona clear  back to the guild's or the default one
/history        what is remembered
/quit           leave (also Ctrl-D)
Ctrl-C stops a reply."""
NO_ANSWER = "(no answer)"


class Console:
    """One chat on one screen, with one dialog."""

    def __init__(self, services: Services, key: DialogKey, screen: Screen) -> None:
        self._services = services
        self._key = key
        self._screen = screen
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/reset": self._reset,
            "/persona": self._persona,
            "/history": self._history,
            "/help": self._help,
        }

    async def wait_for_engine(self) -> None:
        """Wait until our own engine is ready. Raises ConfigError if it refuses its settings."""
        process = self._services.process
        if process is not None and not process.ready:
            client = process.client
            async with self._screen.busy(lambda: f"Loading the model ... {client.load_progress}".rstrip()):
                await process.wait_ready()

    async def run(self) -> None:
        """Read and handle lines until /quit or the end of input."""
        hint = asyncio.create_task(better_model(self._services.settings)) if self._screen.interactive else None
        await self.wait_for_engine()
        if hint is not None:
            self._screen.note("Say something. /help lists the commands, /quit leaves.")
            if hint.done() and (line := hint.result()):
                self._screen.note(line)
            hint.cancel()  # loading the model took longer than an answer of the hub takes
        interrupted = False
        while True:
            try:
                line = await self._screen.ask()
            except KeyboardInterrupt:
                if interrupted:
                    return
                interrupted = True
                self._screen.note("Ctrl-C again to leave.")
                continue
            interrupted = False
            if line is None or line.strip() in {"/quit", "/exit"}:
                return
            if line.strip():
                await self.handle(line.strip())

    async def handle(self, line: str) -> None:
        """Handle one line: a command or a message. Errors are shown, and the chat goes on."""
        name, _, rest = line.partition(" ")
        try:
            if not line.startswith("/"):
                await self.say(line)
            elif name in self._commands:
                await self._commands[name](rest.strip())
            else:
                self._screen.note(f"There is no command {name}. /help lists them.")
        except BotError as error:
            self._screen.note(error.user_message)

    async def say(self, text: str) -> None:
        """Send one message and show its reply while it is generated. Raises BotError."""
        await self.wait_for_engine()
        first = asyncio.Event()
        greeting = ""

        def on_begun(turn: PendingTurn) -> None:
            nonlocal greeting
            greeting = turn.greeting

        async def on_delta(piece: str) -> None:
            if not first.is_set():
                first.set()
                await asyncio.sleep(0)  # let the spinner disappear before the text is written
                await shown.wait()
                self._screen.write(greeting)
            self._screen.write(piece)

        thought: float | None = None

        def on_thought(seconds: float | None) -> None:
            nonlocal thought
            thought = seconds
            if first.is_set():  # a server that did not say so when it began
                self._screen.line()
                self._screen.note("(That was what the model thought.)")

        shown = asyncio.Event()
        request = ChatRequest(self._key, text, on_begun=on_begun, on_thought=on_thought)
        async with self._stoppable():
            chatting = asyncio.create_task(self._services.chat.chat(request, on_delta))
            waiting = asyncio.create_task(first.wait())
            try:
                async with self._screen.busy("Thinking ..."):
                    await asyncio.wait([chatting, waiting], return_when=asyncio.FIRST_COMPLETED)
                shown.set()
                reply = await chatting
            finally:
                waiting.cancel()
                chatting.cancel()
                await asyncio.gather(chatting, waiting, return_exceptions=True)
                if first.is_set():
                    self._screen.line()
        if not reply.text.strip():
            self._screen.line(NO_ANSWER)
        if words := thought_for(thought):
            self._screen.note(f"({words})")
        if reply.finish_reason == "stopped":
            self._screen.note("(stopped)")
        elif reply.finish_reason == "length":
            self._screen.note("(cut off at the longest reply that is allowed)")
        elif reply.finish_reason == REPETITION:
            self._screen.note("(ended here: the answer had begun to repeat itself)")
        if not reply.saved:
            self._screen.note("(This reply could not be saved yet; it may not be remembered.)")

    @contextlib.asynccontextmanager
    async def _stoppable(self) -> AsyncIterator[None]:
        """In this block the first Ctrl-C stops the reply, and the second raises KeyboardInterrupt."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        presses = 0

        def pressed() -> None:
            nonlocal presses
            presses += 1
            if presses == 1:
                stopping.append(asyncio.ensure_future(self._services.chat.stop(self._key)))
            elif task is not None:
                task.cancel()

        stopping: list[asyncio.Future[bool]] = []
        before = signal.getsignal(signal.SIGINT)
        loop.add_signal_handler(signal.SIGINT, pressed)
        try:
            yield
        except asyncio.CancelledError:
            if presses < 2:
                raise
            raise KeyboardInterrupt from None
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)

    async def _reset(self, _: str) -> None:
        pairs = (await self._services.chat.dialogs.reset(self._key)).pairs
        self._screen.note("Nothing to forget." if pairs == 0 else f"Forgotten: {pairs} {_times(pairs)}.")

    async def _persona(self, text: str) -> None:
        personas = self._services.personas
        if text == "clear":
            cleared = await personas.clear(self._key, "member")
            self._screen.note("Your own persona is gone." if cleared else "You have no persona of your own.")
        elif text:
            await personas.set(self._key, "member", text, author_id=self._key.user_id)
            self._screen.note("From now on I am who you say.")
        else:
            current = await personas.show(self._key)
            self._screen.line(f"{current.prompt}\n({current.level} persona)")

    async def _history(self, _: str) -> None:
        pairs = await self._services.chat.turns.history(self._key, max(1, self._services.settings.max_chat_logs))
        if not pairs:
            self._screen.note("Nothing yet.")
        self._screen.pairs([(pair.user, pair.reply) for pair in pairs])

    async def _help(self, _: str) -> None:
        self._screen.note(HELP)


def _times(pairs: int) -> str:
    return "exchange" if pairs == 1 else "exchanges"
