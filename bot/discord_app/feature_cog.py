"""The base class of the cogs that serve commands: their services, and their buttons and modals.

A button or modal is served by its custom id, `word:argument`, and not by a discord.py view: so it also works after a
restart. The word is an `Action`, on which the permission check depends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from discord.ext import commands

from bot.discord_app.context import CommandContext, Interaction

ComponentHandler = Callable[[Interaction, str], Awaitable[None]]
"""Serves a button or modal; the text is the argument in its custom id, "" if there is none."""


class FeatureCog(commands.Cog):
    """A cog with the services behind the commands."""

    def __init__(self, context: CommandContext) -> None:
        self.context = context

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The handlers of this cog's buttons and modals, by the word that their custom ids begin with."""
        return {}
