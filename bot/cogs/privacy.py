"""/privacy: show, export or delete what is stored about the member who asks, in all guilds and direct messages."""

from __future__ import annotations

import io
from collections.abc import Mapping

import discord
from discord import app_commands
from discord.ui import Button, View

from bot.discord_app.context import Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import ComponentHandler, FeatureCog
from bot.discord_app.rest.message_data import NO_MENTIONS
from bot.errors import BotError
from bot.i18n.language import N_, NP_, pgettext
from bot.i18n.language import gettext as _
from bot.settings import Settings
from bot.storage import translate_database_errors

_NOTHING_STORED = N_("I have stored nothing about you.")
_CONFIRM_DELETE = N_(
    """\
This deletes all that I have stored about you: conversations, what I remember about you, your own personas and your \
settings, in every guild and in direct messages. It cannot be undone. `/privacy export` gives you a copy first."""
)
STORED = frozenset(
    {
        NP_("stored", "dialogs"),
        NP_("stored", "turns"),
        NP_("stored", "turn files"),
        NP_("stored", "deliveries"),
        NP_("stored", "delivery messages"),
        NP_("stored", "reply variants"),
        NP_("stored", "turn prompts"),
        NP_("stored", "facts"),
        NP_("stored", "dialog summaries"),
        NP_("stored", "memory work"),
        NP_("stored", "personas"),
        NP_("stored", "persona pictures"),
        NP_("stored", "persona assignments"),
        NP_("stored", "persona versions"),
        NP_("stored", "member settings"),
        NP_("stored", "daily usage"),
        NP_("stored", "bound threads"),
        NP_("stored", "audit log"),
        NP_("stored", "users"),
        NP_("stored", "member blocks"),
        NP_("stored", "reports"),
        NP_("stored", "report speakers"),
    }
)
"""What rows about a person are called, by their tables."""
_OPTED_OUT = N_(
    "I store nothing more of what you write, from now on; I will not remember anything either. "
    "What is stored already stays until you use `/privacy delete`."
)
_OPTED_IN = N_("I remember our conversations again, from now on.")


class Privacy(FeatureCog):
    """The commands for a member's own data."""

    privacy = app_commands.Group(name="privacy", description="What I have stored about you, and what becomes of it")

    @privacy.command(name="show", description="Show what I have stored about you, and for how long.")
    async def show(self, interaction: Interaction) -> None:
        """/privacy show."""
        if not await defer(interaction, ephemeral=True):
            return
        with translate_database_errors():
            stored = await self.context.privacy.show(interaction.user.id)
        settings = self.context.settings
        lines = _count_lines(stored.counts)
        text = [_("I have stored about you, in all guilds and direct messages:"), *lines]
        if not lines:
            text = [_(_NOTHING_STORED)]
        if stored.opted_out_since is not None:
            since = _("You opted out on {date}: I store nothing new.")
            text.append(since.format(date=f"{stored.opted_out_since:%Y-%m-%d}"))
        text.append(
            _(
                "A conversation ends when it rests for {days:g} days or by `/reset`, and is deleted {retention} days "
                "later, unless a guild or you chose otherwise. A note about you is deleted when I have not used it for "
                "as long; `/memory show` lists what I remember."
            ).format(days=settings.session_ttl.total_seconds() / 86400, retention=settings.retention_days)
        )
        text.append(_("`/me settings` has conversations of yours deleted sooner."))
        text.append(_("Other bots keep data of their own, also those of the same owner: please ask each of them."))
        text += privacy_lines(settings)
        await self.context.respond(interaction, "\n".join(text))

    @privacy.command(name="export", description="Get a copy of all that I have stored about you.")
    async def export(self, interaction: Interaction) -> None:
        """/privacy export."""
        if not await defer(interaction, ephemeral=True):
            return
        with translate_database_errors():
            archive = await self.context.privacy.export(interaction.user.id)
        if len(archive) > interaction.filesize_limit:
            raise BotError(
                _("There is too much for one file on Discord. Please ask the owner of this bot for your copy.")
            )
        file = discord.File(io.BytesIO(archive), "guildllama-export.zip")
        await interaction.edit_original_response(
            content=_("All that I have stored about you."), attachments=[file], allowed_mentions=NO_MENTIONS
        )

    @privacy.command(name="delete", description="Delete all that I have stored about you.")
    async def delete(self, interaction: Interaction) -> None:
        """/privacy delete: ask for confirmation."""
        view = View(timeout=None)
        view.add_item(
            Button(
                label=_("Delete everything"),
                style=discord.ButtonStyle.danger,
                custom_id=f"privacy:{interaction.user.id}",
            )
        )
        view.stop()  # discord.py need not remember it: the bot serves buttons by their custom ids
        await interaction.response.send_message(
            _(_CONFIRM_DELETE), view=view, ephemeral=True, allowed_mentions=NO_MENTIONS
        )

    @privacy.command(name="optout", description="Talk to me without being remembered: I store nothing of it.")
    async def optout(self, interaction: Interaction) -> None:
        """/privacy optout."""
        if await defer(interaction, ephemeral=True):
            with translate_database_errors():
                await self.context.privacy.opt_out(interaction.user.id)
            await self.context.respond(interaction, _(_OPTED_OUT))

    @privacy.command(name="optin", description="Be remembered again.")
    async def optin(self, interaction: Interaction) -> None:
        """/privacy optin."""
        if await defer(interaction, ephemeral=True):
            with translate_database_errors():
                await self.context.privacy.opt_in(interaction.user.id)
            await self.context.respond(interaction, _(_OPTED_IN))

    def component_handlers(self) -> Mapping[str, ComponentHandler]:
        """The button that confirms a deletion."""
        return {"privacy": self._delete_confirmed}

    async def _delete_confirmed(self, interaction: Interaction, argument: str) -> None:
        """Delete everything and show the receipt. `argument`: the id of the member who asked for the deletion."""
        if argument != str(interaction.user.id):
            raise BotError(_("Only the person whose data it is can delete it."))
        await interaction.response.defer()
        with translate_database_errors():
            receipt = await self.context.privacy.delete(interaction.user.id)
        lines = _count_lines(receipt.counts)
        text = _(_NOTHING_STORED)
        if lines:
            text = "\n".join([_("Deleted:"), *lines, _("Receipt `{number}`").format(number=receipt.receipt_id)])
        await interaction.edit_original_response(content=text, view=None, allowed_mentions=NO_MENTIONS)


def privacy_lines(settings: Settings) -> list[str]:
    """Where the operator says what becomes of members' data, and whom to ask. Nothing where neither is set."""
    lines = []
    if settings.privacy_policy_url is not None:
        lines.append(_("Privacy policy: <{url}>").format(url=settings.privacy_policy_url))
    if settings.privacy_contact is not None:
        contact = discord.utils.escape_markdown(settings.privacy_contact)
        lines.append(_("Questions about your data: {contact}").format(contact=contact))
    return lines


def _count_lines(counts: Mapping[str, int]) -> list[str]:
    return [f"- {pgettext('stored', name.replace('_', ' '))}: {count:,}" for name, count in counts.items() if count]
