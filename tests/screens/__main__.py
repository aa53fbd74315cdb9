"""Draws all scenes, or those whose names are given. Each is a short story, written to one picture or more."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from models.migrate import upgrade
from tests.discord.harness import World, world
from tests.screens import administration, characters, chats, korean, limits, operator, settings, terminal
from tests.screens.pictures import FOLDER

Scene = Callable[[World], Awaitable[None]]
SCENES: tuple[Scene, ...] = (
    chats.chat, chats.another_reply, chats.running, chats.thinking, chats.edit, chats.together, chats.file,
    characters.personas, characters.character, chats.memory, characters.faces, characters.scene, characters.webhooks,
    characters.restricted, korean.korean, administration.admin, administration.reports, settings.settings,
    settings.filters, limits.limits, limits.refusals, limits.filtered, chats.information,
    operator.operator, terminal.operator_terminal,
)  # fmt: skip


async def main(names: list[str]) -> None:
    """Draw the scenes with these names; without any, all."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/screens.db"
        upgrade(url)
        async with world(url, Path(folder)) as here:
            for each in SCENES:
                if not names or each.__name__ in names:
                    await each(here)
                    sys.stdout.write(f"{each.__name__}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
