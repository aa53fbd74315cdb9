"""The terminal chat as a person sees it: a real pseudo-terminal, keys in, screen out."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.engine import FakeEngine

GUILDLLAMA = Path(sys.executable).parent / "guildllama"
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, controller: int) -> None:
        self.process, self._controller = process, controller
        self.shown = ""
        self._grown = asyncio.Event()
        asyncio.get_running_loop().add_reader(controller, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._controller, 65536)
        except OSError:  # the other side was closed
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._controller)
        # A terminal answers the question where the cursor is; prompt_toolkit asks it.
        if b"\x1b[6n" in data:
            os.write(self._controller, b"\x1b[1;1R")
        self.shown += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode(errors="replace"))
        self._grown.set()

    def type(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    async def until(self, text: str) -> None:
        """Wait until this was shown, and forget everything up to it."""
        async with asyncio.timeout(30):
            while text not in self.shown:
                self._grown.clear()
                await self._grown.wait()
        self.shown = self.shown.partition(text)[2]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._controller)
        os.close(self._controller)


@pytest.fixture
async def terminal(tmp_path: Path, engine: FakeEngine) -> AsyncIterator[Terminal]:
    controller, side = pty.openpty()
    env = {name: value for name, value in os.environ.items() if not name.startswith("GUILDLLAMA_")}
    env |= {"GUILDLLAMA_ENGINE_URL": engine.url, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    process = await asyncio.create_subprocess_exec(
        GUILDLLAMA, "chat", cwd=tmp_path, env=env, stdin=side, stdout=side, stderr=side, start_new_session=True
    )
    os.close(side)
    opened = Terminal(process, controller)
    yield opened
    if process.returncode is None:
        process.kill()
    await process.wait()
    opened.close()


async def test_a_conversation(terminal: Terminal, engine: FakeEngine):
    engine.reply("Ahoy", " [bold]there[/bold]", " 🏴‍☠️")
    await terminal.until("you ›")
    terminal.type("Hello\r")
    await terminal.until("Ahoy [bold]there[/bold] 🏴‍☠️")
    await terminal.until("you ›")
    terminal.type("/history\r")
    await terminal.until("you")
    await terminal.until("Hello")
    await terminal.until("Ahoy [bold]there")
    await terminal.until("you ›")
    terminal.type("/quit\r")
    assert await asyncio.wait_for(terminal.process.wait(), 20) == 0
    assert "Traceback" not in terminal.shown


async def test_an_escape_sequence_in_a_reply_is_shown_and_does_nothing(terminal: Terminal, engine: FakeEngine):
    engine.reply("a\x1b]0;title\x07", "\x9b2Jb")
    await terminal.until("you ›")
    terminal.type("Hello\r")
    await terminal.until("a␛]0;title␇\ufffd2Jb")


async def test_ctrl_d_leaves(terminal: Terminal, engine: FakeEngine):
    await terminal.until("you ›")
    terminal.type(CTRL_D)
    assert await asyncio.wait_for(terminal.process.wait(), 20) == 0


async def test_ctrl_c_at_the_prompt_leaves_when_pressed_twice(terminal: Terminal, engine: FakeEngine):
    await terminal.until("you ›")
    terminal.type(CTRL_C)
    await terminal.until("Ctrl-C again to leave")
    await terminal.until("you ›")
    terminal.type(CTRL_C)
    assert await asyncio.wait_for(terminal.process.wait(), 20) == 0


async def test_a_slow_answer_shows_that_something_is_going_on(terminal: Terminal, engine: FakeEngine):
    engine.hang()
    await terminal.until("you ›")
    terminal.type("Hello\r")
    await terminal.until("Thinking ...")
    engine.release()
    await terminal.until("(no answer)")
