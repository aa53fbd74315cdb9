"""The operator's commands as a terminal shows them: tmux runs them, Rich turns what it shows into a page for Chromium.

Knows what is typed. Knows nothing of what the commands print: a picture shows what they really did.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tests.discord.harness import World
from tests.fakes.discord import render
from tests.fork_server import ROOT
from tests.screens.pictures import FOLDER

PROMPT = "$ "
WIDTH = 80
"""Columns, as a terminal has them that nobody made wider."""
_COLOURS = [(31, 35, 41), (240, 100, 100), (110, 200, 120), (220, 180, 80),
            (110, 160, 250), (200, 130, 220), (100, 190, 200), (208, 212, 218)]  # fmt: skip
_THEME = TerminalTheme((24, 27, 32), (208, 212, 218), _COLOURS)
_PAGE = """<!DOCTYPE html><meta charset="utf-8"><style>{stylesheet}
body {{ margin: 0; background: #000; }}
pre {{ display: inline-block; margin: 0; padding: 16px 20px; color: {foreground}; background: {background};
      font: 14px/1.35 "DejaVu Sans Mono", monospace; }}</style><pre>{code}</pre>"""
_FAULTS = {
    "DISCORD_TOKEN": "no.such.token",
    "ENGINE_URL": "http://127.0.0.1:9/v1",
    "DATABASE_URL": "postgresql://bot@127.0.0.1:9/guildllama",
    "TEMPRATURE": "0.5",
}


class Terminal:
    """A shell in a terminal of tmux's own server. Nothing of this process's settings is in it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def tmux(self, *arguments: str) -> str:
        """What a command of tmux prints. Raises AssertionError with its complaint."""
        process = await asyncio.create_subprocess_exec(
            "tmux", "-S", self.socket, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, complaint = await process.communicate()
        assert process.returncode == 0, complaint.decode()
        return out.decode()

    async def type(self, text: str, until: str, *, timeout: float = 60.0) -> None:
        """Type a line, and wait until the last line that is shown begins with this."""
        await self.tmux("send-keys", "-l", text)
        before = await self.shown()
        await self.tmux("send-keys", "Enter")
        await self.until(lambda now: now != before and now.rstrip().split("\n")[-1].startswith(until.rstrip()), timeout)

    async def until(self, holds: Callable[[str], bool], timeout: float) -> None:
        """Wait until this holds of what is shown."""
        async with asyncio.timeout(timeout):
            while not holds(await self.shown()):  # noqa: ASYNC110 - a terminal does not tell of a change
                await asyncio.sleep(0.1)

    async def shown(self, *options: str) -> str:
        """The screen, line by line; with `-e` also its colours."""
        return await self.tmux("capture-pane", "-p", *options)

    async def picture(self, name: str) -> None:
        """Write what is shown, without the prompt that waits for another command."""
        lines = (await self.shown("-e")).rstrip().split("\n")
        if Text.from_ansi(lines[-1]).plain.rstrip() == PROMPT.rstrip():
            lines.pop()
        console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi("\n".join(lines).rstrip()), soft_wrap=True)
        page = console.export_html(theme=_THEME, code_format=_PAGE, inline_styles=True)
        await render.screenshot(page, FOLDER / f"{name}.png", scale=1.5)


@asynccontextmanager
async def terminal(folder: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Terminal]:
    """A terminal in a folder with these settings."""
    if settings is not None:
        file = folder / ".env"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        file.chmod(0o600)
    with tempfile.TemporaryDirectory() as place:
        opened = Terminal(Path(place, "tmux"))
        clean = ["env", "-i", f"PATH={Path(sys.executable).parent}:{os.environ['PATH']}", f"PYTHONPATH={ROOT}",
                 f"PS1={PROMPT}", "TERM=tmux-256color", "LANG=C.UTF-8", f"HOME={place}"]  # fmt: skip
        shell: Sequence[str] = [*clean, "bash", "--norc", "--noprofile", "-i"]
        await opened.tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", str(WIDTH), "-y", "90", "-c", str(folder), *shell
        )
        try:
            await opened.until(lambda now: now.strip() == PROMPT.strip(), 20)
            yield opened
        finally:
            await opened.tmux("kill-server")


async def operator_terminal(here: World) -> None:
    """An operator's first commands: init with its three questions, the help, doctor without faults and with some."""
    folder = Path(tempfile.gettempdir(), "guildllama")  # its name is in the pictures
    os.mkdir(folder, 0o700)
    try:
        async with terminal(folder) as screen:
            await screen.type("guildllama init", "   Token (not shown):")
            await screen.type("not-a-token", "   Token (not shown):")
            await screen.type("MTIzNDU2Nzg5.GfGhIj.klmnopqrstuvwxyz", "   Database")
            await screen.type("", "   Model")
            await screen.type("", PROMPT)
            await screen.picture("terminal-init")
        async with terminal(folder) as screen:
            await screen.type("guildllama --help", PROMPT)
            await screen.picture("terminal-help")
        await here.member()
        well = here.environment() | {"GUILDLLAMA_DATABASE_URL": "sqlite:///data/guildllama.db"}
        well.pop("GUILDLLAMA_LOG_FORMAT")
        async with terminal(folder, well) as screen:
            await screen.type("guildllama db upgrade && clear", PROMPT)
            await screen.type("guildllama doctor", PROMPT)
            await screen.picture("terminal-doctor")
        faulty = well | {f"GUILDLLAMA_{name}": value for name, value in _FAULTS.items()}
        async with terminal(folder, faulty) as screen:
            (folder / ".env").chmod(0o644)
            await screen.type("guildllama doctor", PROMPT)
            await screen.picture("terminal-doctor-faults")
    finally:
        shutil.rmtree(folder)
