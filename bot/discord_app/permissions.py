"""Who may do what: the one authorisation function, and the gate that every interaction passes.

Commands, messages, buttons, modals and reactions are all checked here, commands and buttons before they are deferred,
so that a refusal is ephemeral. The gate
hardly waits: an interaction must be deferred within 3 s, and the database may be slower. It therefore applies a guild's
own rules only if they are cached, which they are while members use the bot there. If they are not, the command defers,
reads them and calls `authorise` again; a refusal then deletes the deferred response.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Collection
from typing import Literal

import discord
from discord import app_commands

from bot.discord_app.caller import Caller
from bot.errors import BotError, MemberIsBlocked, ShuttingDown
from bot.guilds.administration.blocks import MemberBlocks
from bot.guilds.settings_cache import GuildSettingsCache
from bot.i18n.language import NP_, pgettext
from bot.i18n.language import gettext as _
from models.types import DIRECT_MESSAGES, Block, DialogKey, GuildSettings, PersonaScope, ThreadBinding, TurnInfo

IN_GUILDS = app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False)
BY_GUILDS = app_commands.AppInstallationType(guild=True, user=False)
"""Commands that a guild has only if it invited the bot itself; a user install is not enough."""
MANAGE_GUILD = discord.Permissions(manage_guild=True)
_MAX_SEEN = 10_000  # interaction ids kept to recognise repeats


class Action(enum.Enum):
    """What a member wants to do. The value is the word of `action_word`, or the first one of the custom id."""

    CHAT = "chat"
    ASK = "ask"
    REGENERATE = "regenerate"
    CONTINUE = "continue"
    EDIT = "edit"
    VARIANT = "variant"
    FORGET = "forget"
    FILE = "file"
    STOP = "stop"
    THREAD = "thread"
    RESET = "reset"
    HISTORY = "history"
    CONVERSATION = "conversation"
    GUILD_PERSONA = "persona"
    READ_PERSONAS = "personas"
    OWN_PERSONA = "me"
    CARD = "card"
    GUILD_CARD = "guildcard"
    SCENE = "scene"
    CONFIG = "config"
    ADMIN = "admin"
    REPORT = "report"
    OWN_SETTINGS = "mine"
    PRIVACY = "privacy"
    MEMORY = "memory"
    WHY = "why"
    QUOTA = "quota"
    QUEUE = "queue"
    HELP = "help"


ASK_MENU, CARD_MENU, WHY_MENU = "Ask about this", "Import character card", "Why this answer?"
REPORT_MENU = "Report this answer"
MENU_ACTIONS = {
    ASK_MENU: Action.ASK,
    CARD_MENU: Action.CARD,
    WHY_MENU: Action.WHY,
    REPORT_MENU: Action.REPORT,
}
"""The entries in the menu of a message, by what the menu calls them."""
_READING = frozenset({("persona", "show"), ("persona", "list")})
"""Commands for everyone in a group whose other commands are for managers."""
_GUILD_ONLY = frozenset(
    {
        Action.GUILD_PERSONA,
        Action.READ_PERSONAS,
        Action.GUILD_CARD,
        Action.SCENE,
        Action.CONFIG,
        Action.THREAD,
        Action.ADMIN,
        Action.REPORT,
    }
)
_MANAGERS_ONLY = frozenset({Action.GUILD_PERSONA, Action.GUILD_CARD, Action.CONFIG, Action.ADMIN})
# What a blocked member may still do. A manager could end the block anyway.
_WHILE_BLOCKED = frozenset({Action.PRIVACY, Action.HELP, Action.ADMIN})
# A guild cannot bar members from their own data.
_BY_GUILD_RULES = frozenset({Action.CHAT, Action.ASK, Action.REGENERATE, Action.CONTINUE, Action.EDIT, Action.THREAD})
_MAX_NAMED = 10  # channels or roles named in a refusal


def action_word(command: str, subcommand: str) -> str:
    """The word of the action that a command is; the first one of its name, unless it only reads."""
    if command in MENU_ACTIONS:
        return MENU_ACTIONS[command].value
    return Action.READ_PERSONAS.value if (command, subcommand) in _READING else command


class NotAllowed(BotError):
    """The member may not do this, or not here."""


def authorise(caller: Caller, action: Action, guild_settings: GuildSettings | None, block: Block | None = None) -> None:
    """Raise NotAllowed unless this member may do this here, and MemberIsBlocked for one whom an admin has blocked.

    `guild_settings`: None if they are not known yet. `block`: that of this member, if there is one.

    The only place that decides it, for commands, messages, buttons, modals and reactions alike. Discord hides commands
    that a member may not use, but an admin may override that and a modified client ignores it.
    """
    if action in _GUILD_ONLY and caller.guild_id == DIRECT_MESSAGES:
        raise NotAllowed(_("This works only in a guild that has invited me, not in direct messages or elsewhere."))
    if block is not None and action not in _WHILE_BLOCKED:
        raise MemberIsBlocked(block.until, block.reason)
    if action in _MANAGERS_ONLY and not caller.manages_guild:
        raise NotAllowed(_("Only members with the Manage Server permission may do this."))
    if action is Action.THREAD and not caller.creates_threads:
        raise NotAllowed(_("You need the permission Create Public Threads here."))
    if action in _BY_GUILD_RULES and guild_settings is not None:
        _check_channel(caller, guild_settings)
        _check_roles(caller, guild_settings)


OwnBarrier = Literal["nobody", "roles", "locked"]
"""Why a member's own persona may not answer: the guild allows none, only to other roles, or not in this place."""


def own_persona_barrier(caller: Caller, guild_settings: GuildSettings) -> OwnBarrier | None:
    """Why the caller's own persona does not answer here; None if it may. The rules hold for managers too."""
    if caller.guild_id == DIRECT_MESSAGES:
        return None
    if guild_settings.own_personas == "nobody":
        return "nobody"
    allowed = {role.role_id for role in guild_settings.roles if role.own_persona}
    if guild_settings.own_personas == "roles" and not allowed & caller.role_ids:
        return "roles"
    return "locked" if guild_settings.locked_channels & caller.place_ids else None


def persona_scope(caller: Caller, guild_settings: GuildSettings, asker_id: int | None = None) -> PersonaScope:
    """Where the caller writes, as far as it decides who answers: asked at each message, so no dialog outlives a rule.

    `asker_id`: who asked, if somebody else has the reply written anew. Their roles are not known then.
    """
    if caller.guild_id == DIRECT_MESSAGES:
        return PersonaScope()
    unknown = guild_settings.own_personas == "roles" and asker_id not in (None, caller.user_id)
    return PersonaScope(
        category_id=caller.category_id,
        channel_id=caller.parent_id,
        thread_id=caller.channel_id if caller.in_thread else 0,
        own_allowed=not unknown and own_persona_barrier(caller, guild_settings) is None,
        face=guild_settings.persona_face,
        age_restricted=caller.age_restricted,
    )


def authorise_opener(caller: Caller, opener: str) -> None:
    """Raise NotAllowed unless this member opened the panel. `opener`: the id in the custom id that they used.

    Whether they may still do there what the panel does has been checked by `authorise`, at this very press.
    """
    if opener != str(caller.user_id):
        raise NotAllowed(_("Only the member who opened this panel can use it."))


def authorise_scene(caller: Caller, binding: ThreadBinding | None) -> None:
    """Raise NotAllowed unless this member may change the scene here: they manage the guild, or started this thread.

    `binding`: that of the thread, if it was started for a conversation.
    """
    started_it = binding is not None and binding.creator_id == caller.user_id
    if not caller.manages_guild and not started_it:
        raise NotAllowed(
            _(
                "Only members with the Manage Server permission may do this, and in a thread for a conversation the "
                "member who started it."
            )
        )


def authorise_turn(caller: Caller, turn: TurnInfo) -> None:
    """Raise NotAllowed unless this member may change this turn: they wrote it, or they manage its guild."""
    if caller.guild_id != turn.key.guild_id:
        raise NotAllowed(_("This answer belongs to another place."))
    if caller.user_id != turn.author_id and not caller.manages_guild:
        raise NotAllowed(_("Only the person who asked can do this."))


def authorise_author(caller: Caller, turn: TurnInfo) -> None:
    """Raise NotAllowed unless this member asked for this turn: what is remembered of them concerns nobody else."""
    if caller.guild_id != turn.key.guild_id:
        raise NotAllowed(_("This answer belongs to another place."))
    if caller.user_id != turn.author_id:
        raise NotAllowed(_("Only the person who asked can see what this answer was made of."))


def authorise_memory(caller: Caller, guild_settings: GuildSettings, *, available: bool) -> None:
    """Raise NotAllowed unless members may have the bot remember them here.

    What is remembered already may be read, changed and forgotten everywhere. `available`: whether the bot's owner
    allows it.
    """
    if not available:
        raise NotAllowed(_("The owner of this bot has switched memory off."))
    if caller.guild_id != DIRECT_MESSAGES and not guild_settings.memory:
        raise NotAllowed(
            _("This guild keeps no memory: members with Manage Server can switch it on with `/config memory on`.")
        )


CHANGES = frozenset(
    {
        NP_("can … it", "change"),
        NP_("can … it", "rename"),
        NP_("can … it", "delete"),
        NP_("can … it", "reset"),
        NP_("can … it", "take back a reset of"),
        NP_("can … it", "begin another one beside"),
        NP_("can … it", "forget the summary of"),
    }
)


def authorise_shared(caller: Caller, key: DialogKey, change: str) -> None:
    """Raise NotAllowed unless this member may change the dialog as a whole: it is their own, or they manage its guild.

    `change`, one of CHANGES, completes the sentence "… can change it".
    """
    if key.shared and not caller.manages_guild:
        text = _(
            "Everyone here shares this conversation: only members with the Manage Server permission can {change} it."
        )
        raise NotAllowed(text.format(change=pgettext("can … it", change)))


def authorise_reading(caller: Caller, key: DialogKey) -> None:
    """Raise NotAllowed unless this member may read what was said before: in a shared dialog, as in its channel."""
    if key.shared and not caller.reads_history:
        raise NotAllowed(_("You may not read earlier messages in this channel, so I cannot show them."))


def _check_channel(caller: Caller, guild_settings: GuildSettings) -> None:
    """A thread is allowed if it or its channel is listed."""
    if guild_settings.channels and not guild_settings.channels & caller.channel_ids:
        text = _("I do not chat in this channel. Ask me in {channels}.")
        raise NotAllowed(text.format(channels=_mentions("<#{}>", guild_settings.channels)))


def _check_roles(caller: Caller, guild_settings: GuildSettings) -> None:
    allowed = {role.role_id for role in guild_settings.roles if role.allowed}
    if allowed and not allowed & caller.role_ids:
        text = _("Here I chat only with members who have the role {roles}.")
        raise NotAllowed(text.format(roles=_mentions("<@&{}>", allowed)))


def _mentions(pattern: str, ids: Collection[int]) -> str:
    named = [pattern.format(each) for each in sorted(ids)[:_MAX_NAMED]]
    more, shown = len(ids) - len(named), pgettext("between channels or roles", " or ").join(named)
    return _("{names} ({number} more)").format(names=shown, number=more) if more else shown


class PermissionGate:
    """Admits each interaction and message once, if the member may do it and the bot is not shutting down."""

    def __init__(self, guild_settings: GuildSettingsCache, blocks: MemberBlocks) -> None:
        self.closed = False
        self._blocks = blocks
        self._guild_settings = guild_settings
        self._seen: OrderedDict[int, None] = OrderedDict()

    def is_repeat(self, event_id: int) -> bool:
        """Whether this interaction or message was seen before: a RESUME may replay one that was handled."""
        if event_id in self._seen:
            return True
        self._seen[event_id] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    async def admit(self, caller: Caller, action: Action) -> None:
        """`check`, once it is known who is blocked in the caller's guild; that is waited for only for the first one."""
        await self._blocks.ready(caller.guild_id)
        self.check(caller, action)

    def check(self, caller: Caller, action: Action) -> None:
        """Raise ShuttingDown once the gate is closed, and NotAllowed or MemberIsBlocked where `authorise` refuses.

        Replies may be stopped until the end: this process still writes some, and other processes write theirs.
        """
        if self.closed and action is not Action.STOP:
            raise ShuttingDown()
        block = self._blocks.known(caller.guild_id, caller.user_id)
        authorise(caller, action, self._guild_settings.known(caller.guild_id), block)
