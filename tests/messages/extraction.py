"""The texts of the bot as a template: what the code marks for translation, and what its commands are described as."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import discord
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from discord import app_commands

from bot.cogs.all_cogs import make_cogs
from bot.discord_app.client import GuildLlama
from bot.discord_app.command_texts import COMMAND
from bot.i18n.catalogues import CATALOGUES

ROOT = Path(__file__).parents[2]
KEYWORDS: dict[str, Any] = {
    "_": None,
    "N_": None,
    "gettext": None,
    "ngettext": (1, 2),
    "pgettext": ((1, "c"), 2),
    "NP_": ((1, "c"), 2),
}
COMMENT = "Texts of commands, for Discord's clients"


def template() -> Catalog:
    """All texts that are to be translated."""
    found = Catalog(project="guildllama", fuzzy=False)
    for file, _line, message, _comments, context in extract_from_dir(
        ROOT / "bot", method_map=[("**.py", "python")], keywords=KEYWORDS, comment_tags=()
    ):
        found.add(message, locations=[(f"bot/{file}", 0)], context=context)
    for text in sorted(command_texts()):
        found.add(text, context=COMMAND, auto_comments=[COMMENT])
    return found


def commands() -> list[Any]:
    """The commands of the bot, which is made without connecting it to anything."""

    async def made() -> list[Any]:
        context = MagicMock()
        context.settings.message_content = False
        bot = GuildLlama(context, lambda bot, context: (), MagicMock())
        for cog in make_cogs(bot, context, MagicMock()):
            for command in cog.__cog_app_commands__:
                bot.tree.add_command(command)
            for menu in vars(cog).values():
                if isinstance(menu, app_commands.ContextMenu):
                    bot.tree.add_command(menu)
        return [*bot.tree.get_commands(), *bot.tree.get_commands(type=discord.AppCommandType.message)]

    return asyncio.run(made())


def command_texts() -> set[str]:
    """What discord.py has translated: descriptions, names of choices, entries of message menus."""
    return {text for command in commands() for text in _texts_of(command)}


def _texts_of(command: Any) -> Iterator[str]:
    if isinstance(command, app_commands.ContextMenu):
        yield command.name
        return
    yield str(command.description)
    if isinstance(command, app_commands.Group):
        for each in command.commands:
            yield from _texts_of(each)
        return
    for parameter in command.parameters:
        yield str(parameter.description)
        yield from (choice.name for choice in parameter.choices if not is_identifier(choice))


def is_identifier(choice: app_commands.Choice[Any]) -> bool:
    """Whether a choice is named by the name of a setting or a format, which stay as they are in texts."""
    return choice.name == choice.value and ("_" in choice.name or choice.name in IDENTIFIERS)


IDENTIFIERS = {"channels", "json", "md", "memory", "png", "roles", "scope"}


def catalogue_files() -> list[Path]:
    """The catalogues of all languages."""
    return sorted(CATALOGUES.glob("*.po"))
