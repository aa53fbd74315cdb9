"""The one authorisation function, and those that decide what a member may do with a turn, a dialog or a scene.

Commands, messages, buttons, modals and reactions are all checked here. Each function raises NotAllowed, whose text
tells the member why. Knows callers and settings; reads nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from bot.discord_app.caller import Caller
from bot.discord_app.permissions.actions import Action
from bot.errors import BotError, MemberIsBlocked
from bot.i18n.language import NP_, pgettext
from bot.i18n.language import gettext as _
from models.types import DIRECT_MESSAGES, Block, DialogKey, GuildSettings, ThreadBinding, TurnInfo

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
