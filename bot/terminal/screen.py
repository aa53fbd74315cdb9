"""The screens of the terminal chat: colours and a spinner for a person, plain lines for a pipe.

Knows terminals. Knows nothing of chats: `bot.terminal.console` decides what is shown.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import shutil
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import IO, Protocol

NOTICE_AFTER = 2.0
"""Seconds after which a plain screen says what it is waiting for."""

_VISIBLE_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
_VISIBLE_CONTROLS |= {127: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


Words = str | Callable[[], str]
"""A text, or what says it as it is now."""


def _now(text: Words) -> str:
    return text if isinstance(text, str) else text()


@dataclass(frozen=True, slots=True)
class _Changing:
    """Words that are looked at each time the spinner turns."""

    text: Words

    def __rich__(self) -> str:
        return _escaped(_now(self.text))


def inert(text: str) -> str:
    """Text of others for a terminal: control characters become visible, so an escape sequence has no effect."""
    return text.translate(_VISIBLE_CONTROLS)


def wrapped(text: str, *, indent: int) -> str:
    """Inert lines as wide as the terminal, all but the first one indented; one line for a pipe.

    Breaks between words alone: a URL or path stays whole, so that it can be copied.
    """
    if not sys.stdout.isatty():
        return inert(text)
    width = max(20, shutil.get_terminal_size().columns - indent)
    lines = textwrap.wrap(inert(text), width, break_long_words=False, break_on_hyphens=False)
    return f"\n{'':{indent}}".join(lines)


class Screen(Protocol):
    """Where the console reads lines and shows replies."""

    interactive: bool

    async def ask(self) -> str | None:
        """Read the next line, or None at the end. Raises KeyboardInterrupt for Ctrl-C at the prompt."""

    def write(self, text: str) -> None:
        """Show a piece of a reply."""

    def line(self, text: str = "") -> None:
        """Show a line of output."""

    def note(self, text: str) -> None:
        """Show a line about the chat that is not part of it."""

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show a history of (user, reply)."""

    def busy(self, text: Words) -> contextlib.AbstractAsyncContextManager[None]:
        """Show that the block is running, if it takes long; words that change are shown anew."""


class PlainScreen:
    """For pipes and files: replies on stdout, everything else on stderr."""

    interactive = False

    def __init__(self, source: IO[bytes], out: IO[str], notes: IO[str]) -> None:
        self._source, self._out, self._notes = source, out, notes
        self._lines: asyncio.Queue[str | None] | None = None

    async def ask(self) -> str | None:
        """Read the next line, or None at the end."""
        if self._lines is None:
            self._lines = asyncio.Queue(maxsize=1)
            # A daemon thread: a read that never returns must not keep the process alive.
            reader = threading.Thread(target=self._read, args=(self._lines, asyncio.get_running_loop()), daemon=True)
            reader.start()
        return await self._lines.get()

    def _read(self, lines: asyncio.Queue[str | None], loop: asyncio.AbstractEventLoop) -> None:
        # The chat may end while this reads: then the loop is closed, or its last wait was cancelled.
        with contextlib.suppress(RuntimeError, ValueError, concurrent.futures.CancelledError):
            for raw in self._source:
                line = raw.decode(errors="replace").rstrip("\r\n")
                asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
            asyncio.run_coroutine_threadsafe(lines.put(None), loop).result()

    def write(self, text: str) -> None:
        """Show a piece of a reply."""
        self._out.write(inert(text) if self._out.isatty() else text)
        self._out.flush()

    def line(self, text: str = "") -> None:
        """Show a line of output."""
        self.write(f"{text}\n")

    def note(self, text: str) -> None:
        """Show a line about the chat."""
        self._notes.write(f"{text}\n")
        self._notes.flush()

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show a history of (user, reply)."""
        for user, reply in pairs:
            self.line(f"you: {user}\nbot: {reply}")

    @contextlib.asynccontextmanager
    async def busy(self, text: Words) -> AsyncIterator[None]:
        """Write a note if the block takes longer than NOTICE_AFTER seconds."""
        loop = asyncio.get_running_loop()
        notice = loop.call_later(NOTICE_AFTER, lambda: self.note(_now(text)))
        try:
            yield
        finally:
            notice.cancel()


class TerminalScreen:
    """For a person at a terminal: line editing, colours and a spinner."""

    interactive = True

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.formatted_text import HTML
        from rich.console import Console

        self._prompt: PromptSession[str] = PromptSession()
        self._question = HTML("<b><ansicyan>you ›</ansicyan></b> ")
        self._console = Console(highlight=False, soft_wrap=True)

    async def ask(self) -> str | None:
        """Read the next line, or None at the end."""
        try:
            return await self._prompt.prompt_async(self._question)
        except EOFError:
            return None

    def write(self, text: str) -> None:
        """Show a piece of a reply."""
        self._console.print(inert(text), end="", markup=False)
        sys.stdout.flush()

    def line(self, text: str = "") -> None:
        """Show a line of output."""
        self._console.print(inert(text), markup=False)

    def note(self, text: str) -> None:
        """Show a line about the chat."""
        self._console.print(text, style="dim", markup=False)

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Show a history of (user, reply)."""
        from rich.table import Table

        table = Table(show_header=False, box=None, padding=(0, 1))
        table.add_column(style="bold cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for user, reply in pairs:
            table.add_row("you", _escaped(user))
            table.add_row("bot", _escaped(reply))
        self._console.print(table)

    @contextlib.asynccontextmanager
    async def busy(self, text: Words) -> AsyncIterator[None]:
        """Show a spinner while the block runs."""
        with self._console.status(_Changing(text), spinner="dots"):
            yield


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(inert(text))
