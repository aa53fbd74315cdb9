"""The texts of the bot as a template: what the code marks for translation, and what its commands are described as."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import discord
from babel.messages.catalog import Catalog
from discord import app_commands

from bot.cogs.all_cogs import make_cogs
from bot.discord_app.client import GuildLlama
from bot.discord_app.registration.command_texts import COMMAND
from bot.i18n.catalogues import CATALOGUES, languages

ROOT = Path(__file__).parents[2]
PLAIN, PLURAL, CONTEXT = {"_", "N_", "gettext"}, {"ngettext"}, {"pgettext", "NP_"}
"""The functions that mark a text, a text with its plural, and one after its context."""
COMMENT = "Texts of commands, for Discord's clients"


def template() -> Catalog:
    """All texts that are to be translated."""
    found = Catalog(project="guildllama", fuzzy=False)
    for file in sorted((ROOT / "bot").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for context, message in marked_texts(tree):
            found.add(message, locations=[(str(file.relative_to(ROOT)), 0)], context=context)
    for text in sorted(command_texts()):
        found.add(text, context=COMMAND, auto_comments=[COMMENT])
    return found


def marked_texts(tree: ast.AST) -> Iterator[tuple[str | None, str | tuple[str, ...]]]:
    """The texts that a module marks, with their contexts: read from the syntax tree, as some stand within f-strings."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        if node.func.id in PLAIN and texts:
            yield None, texts[0]
        elif node.func.id in PLURAL and len(texts) == 2:
            yield None, tuple(texts)
        elif node.func.id in CONTEXT and len(texts) == 2:
            yield texts[0], texts[1]


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
    """Whether a choice is a setting, a format or a language, whose names stay as they are in all languages."""
    named = choice.name == choice.value and ("_" in choice.name or choice.name in IDENTIFIERS)
    return named or choice.value in languages()


IDENTIFIERS = {
    "channels",
    "files",
    "filter",
    "json",
    "language",
    "limits",
    "md",
    "memory",
    "png",
    "private",
    "roles",
    "scope",
    "streaming",
}


def catalogue_files() -> list[Path]:
    """The catalogues of all languages."""
    return sorted(CATALOGUES.glob("*.po"))
