"""`/config filter`: words that a guild keeps out of its conversations, and the moderation endpoint. Off by default."""

from __future__ import annotations

from dataclasses import replace

from discord import app_commands
from discord.app_commands import Choice, Range

from bot.cogs.filters.text import changed_text, moderation_text, words_text
from bot.discord_app.context import Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import FeatureCog
from bot.errors import BotError
from bot.guilds.settings.settings_cache import Change
from bot.i18n.language import gettext as _
from bot.safety.moderation import MAX_CATEGORIES, category_named
from bot.safety.words import MAX_WORD_CHARS, listed_words
from models.types import GuildSettings

_ACTIONS = [
    Choice(name="add", value="add"),
    Choice(name="remove", value="remove"),
    Choice(name="show", value="show"),
    Choice(name="clear", value="clear"),
]


class FilterCommands(FeatureCog):
    """The subcommands of `/config filter`."""

    def add_to(self, config: app_commands.Group) -> None:
        """Add them to `/config`."""
        group = app_commands.Group(name="filter", description="What is kept out of messages and answers")

        @group.command(name="words", description="Add or remove filtered words, show them, or clear the list.")
        @app_commands.describe(
            action="What to do", words="Words or phrases, with commas between; * stands for any letters"
        )
        @app_commands.choices(action=_ACTIONS)
        async def words(interaction: Interaction, action: str, words: Range[str, 1, 4000] = "") -> None:
            await self._words(interaction, action, words)

        @group.command(name="moderation", description="Have the owner's moderation check messages and answers.")
        @app_commands.describe(enabled="Whether it checks them")
        async def moderation(interaction: Interaction, enabled: bool) -> None:
            await self._moderation(interaction, lambda old: replace(old, moderation=enabled))

        @group.command(name="threshold", description="Choose from which score of a category moderation keeps out.")
        @app_commands.describe(
            category="The category's name, such as violence",
            score="0 to 1, the lower the stricter; 1: never; left out: moderation's own judgement",
        )
        async def threshold(
            interaction: Interaction, category: Range[str, 1, 50], score: Range[float, 0.0, 1.0] | None = None
        ) -> None:
            await self._moderation(interaction, _set_threshold(category, score))

        config.add_command(group)

    async def _words(self, interaction: Interaction, action: str, given: str) -> None:
        if not await defer(interaction, ephemeral=True):
            return
        guild_id = interaction.guild_id or 0
        if action not in ("add", "remove", "clear"):
            guild = await self.context.guild_settings.read(guild_id)
            await self.context.respond(interaction, words_text(guild.filter_words))
            return
        usable, skipped = listed_words(given)
        if action != "clear" and not usable:
            raise BotError(
                _("Please give me words with a letter or a digit in them, of at most {limit} characters each.").format(
                    limit=MAX_WORD_CHARS
                )
            )
        before = 0

        def change(old: GuildSettings) -> GuildSettings:
            nonlocal before
            before = len(old.filter_words)
            if action == "clear":
                return replace(old, filter_words=())
            if action == "remove":
                return replace(old, filter_words=tuple(each for each in old.filter_words if each not in usable))
            return replace(old, filter_words=tuple(dict.fromkeys((*old.filter_words, *usable))))

        after = await self.context.guild_settings.change(guild_id, change, actor_id=interaction.user.id)
        text = changed_text(before, len(after.filter_words), skipped, removing=action != "add")
        await self.context.respond(interaction, text)

    async def _moderation(self, interaction: Interaction, change: Change) -> None:
        if not await defer(interaction, ephemeral=True):
            return
        after = await self.context.guild_settings.change(
            interaction.guild_id or 0, change, actor_id=interaction.user.id
        )
        text = moderation_text(after, self.context.settings)
        await self.context.respond(interaction, _("Saved. Moderation is {state}.").format(state=text))


def _set_threshold(category: str, score: float | None) -> Change:
    name = category_named(category)
    if name is None:
        raise BotError(_("The name of a category has only letters, digits and the signs / - _."))

    def changed(old: GuildSettings) -> GuildSettings:
        thresholds = dict(old.moderation_thresholds)
        thresholds.pop(name, None)
        if score is not None:
            thresholds[name] = score
        if len(thresholds) > MAX_CATEGORIES:
            raise BotError(_("There is room for {number} categories.").format(number=MAX_CATEGORIES))
        return replace(old, moderation_thresholds=tuple(sorted(thresholds.items())))

    return changed
