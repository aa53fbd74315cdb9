"""/scene: several characters of the guild's library in one channel or thread, of whom one answers each message.

Everyone may list them. Managers change them, and so does, in a thread for a conversation, the member who started it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from discord import app_commands
from discord.app_commands import Choice

from bot.cogs.personas.announcing import announce
from bot.cogs.personas.library import PersonaEntries
from bot.cogs.personas.text import RESTRICTED, bold
from bot.discord_app.caller import caller_of, dialog_key
from bot.discord_app.context import CommandContext, Interaction
from bot.discord_app.delivery import defer
from bot.discord_app.feature_cog import FeatureCog
from bot.discord_app.permissions.authorise import authorise_scene
from bot.discord_app.permissions.command_visibility import BY_GUILDS, IN_GUILDS
from bot.discord_app.permissions.own_persona import persona_scope
from bot.discord_app.rest.message_api import MessageApi
from bot.errors import BotError
from bot.i18n.language import N_
from bot.i18n.language import gettext as _
from models.types import DialogKey, PersonaInfo, SceneInfo, SceneOrder

_ORDERS: Mapping[SceneOrder, str] = {
    "turn": N_("each of them in turn"),
    "model": N_("whom the model chooses"),
}
NO_SCENE = N_("No scene plays here: one persona answers. `/scene add` brings characters of this guild together.")


class SceneCommands(FeatureCog):
    """The commands for scenes."""

    scene = app_commands.Group(
        name="scene",
        description="Several characters in this channel or thread",
        guild_only=True,
        allowed_contexts=IN_GUILDS,
        allowed_installs=BY_GUILDS,
    )

    def __init__(self, context: CommandContext, api: MessageApi) -> None:
        super().__init__(context)
        self._entries = PersonaEntries(context, api, own=False)

    @scene.command(name="add", description="Let a persona of this guild play here, beside others.")
    @app_commands.describe(name="Which one")
    async def add(self, interaction: Interaction, name: str) -> None:
        """/scene add."""
        if (place := await self._begin(interaction)) is None:
            return
        entry = await self._named(interaction, name)
        await self.context.personas.scenes.add(
            self._key(interaction), place, entry.persona_id, actor_id=interaction.user.id
        )
        await self.context.respond(interaction, scene_text(await self._scene(interaction)))
        text = _("-# {name} plays here from now on.").format(name=bold(entry.name))
        await announce(self.context, interaction, text)

    @scene.command(name="remove", description="Take a character out of the scene here.")
    @app_commands.describe(name="Which one")
    async def remove(self, interaction: Interaction, name: str) -> None:
        """/scene remove."""
        if (place := await self._begin(interaction)) is None:
            return
        entry = await self._named(interaction, name)
        removed = await self.context.personas.scenes.remove(
            self._key(interaction), place, entry.persona_id, actor_id=interaction.user.id
        )
        if not removed:
            raise BotError(_("This character does not play here."))
        await self.context.respond(interaction, scene_text(await self._scene(interaction)))
        text = _("-# {name} does not play here any more.").format(name=bold(entry.name))
        await announce(self.context, interaction, text)

    @scene.command(name="list", description="Show who plays in this channel or thread.")
    async def show_list(self, interaction: Interaction) -> None:
        """/scene list."""
        if await defer(interaction, ephemeral=True):
            await self.context.respond(interaction, scene_text(await self._scene(interaction)))

    @scene.command(name="speak", description="Choose who answers a message that names no character.")
    @app_commands.describe(who="Who answers")
    @app_commands.choices(who=[Choice(name=text, value=order) for order, text in _ORDERS.items()])
    async def speak(self, interaction: Interaction, who: str) -> None:
        """/scene speak."""
        if (place := await self._begin(interaction)) is None:
            return
        order: SceneOrder = "model" if who == "model" else "turn"
        changed = await self.context.personas.scenes.speak(
            self._key(interaction), place, order, actor_id=interaction.user.id
        )
        await self.context.respond(interaction, scene_text(await self._scene(interaction)) if changed else _(NO_SCENE))

    @add.autocomplete("name")
    @remove.autocomplete("name")
    async def _suggested(self, interaction: Interaction, current: str) -> list[Choice[str]]:
        return await self._entries.suggestions(interaction, current)

    async def _begin(self, interaction: Interaction) -> int | None:
        """Defer and check who may change a scene; the channel or thread that it is for, None if it is too late."""
        if not await defer(interaction, ephemeral=True):
            return None
        caller = caller_of(interaction)
        binding = await self.context.bound_threads.get(caller.guild_id, caller.channel_id) if caller.in_thread else None
        authorise_scene(caller, binding)
        return caller.channel_id

    async def _named(self, interaction: Interaction, name: str) -> PersonaInfo:
        return await self.context.personas.library.named(self._key(interaction), name, own=False)

    async def _scene(self, interaction: Interaction) -> SceneInfo | None:
        caller = caller_of(interaction)
        settings = await self.context.guild_settings.get(caller.guild_id)
        everybody = replace(persona_scope(caller, settings), age_restricted=True)
        return await self.context.personas.scenes.get(self._key(interaction), everybody)

    def _key(self, interaction: Interaction) -> DialogKey:
        return dialog_key(caller_of(interaction))


def scene_text(scene: SceneInfo | None) -> str:
    """Who plays in a place, and who speaks."""
    if scene is None:
        return _(NO_SCENE)
    names = "\n".join(
        f"- {bold(each.name)}{f' {RESTRICTED}' if each.age_restricted else ''}" for each in scene.characters
    )
    if any(each.age_restricted for each in scene.characters):
        note = _("-# Age-restricted characters ({mark}) play only in age-restricted channels.")
        names = "\n".join((names, note.format(mark=RESTRICTED)))
    plays = _("In {channel} a scene plays:").format(channel=f"<#{scene.place_id}>")
    answers = _(
        "A message that names one of them is answered by that one, a reply to one of their messages by who wrote it; "
        "any other, by {who}."
    ).format(who=_(_ORDERS[scene.speak]))
    return f"{plays}\n{names}\n{answers}"
