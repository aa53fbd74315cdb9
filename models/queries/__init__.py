"""Every query, as a plain async function `f(session, *, key, ...)`. The caller opens the transaction and commits it.

`key` is the tenant key; queries across tenants are marked (see scope.py). This package exports what chats and guild
events use; the operator's queries and those on a person's own data are used through their modules.
"""

from models.queries.administration.blocks import block_member
from models.queries.dialogs.finish import fail_turn, finish_turn
from models.queries.dialogs.new_turn import begin_turn
from models.queries.dialogs.pairs import history
from models.queries.dialogs.resets import end_dialog, undo_reset
from models.queries.dialogs.variants import (
    begin_regeneration,
    finish_continuation,
    finish_regeneration,
    forget_last,
    forget_turn,
    select_variant,
    variants,
)
from models.queries.replies.deliveries import close_deliveries
from models.queries.replies.recovery import interrupt_dead_turns
from models.queries.tenants.audit import audit_log, record_audit
from models.queries.tenants.guild_settings import (
    change_guild_settings,
    chosen_model,
    guild_settings,
    set_guild_settings,
)
from models.queries.tenants.guilds import guild_joined, guild_removed, reconcile_guilds
from models.queries.tenants.member_settings import change_member_settings, member_settings, set_member_settings
from models.queries.tenants.persona_assignments import (
    assigned_persona,
    assignments_of,
    effective_persona,
    persona_levels,
)
from models.queries.tenants.persona_changes import (
    create_persona,
    delete_persona,
    edit_persona,
    rate_persona,
    rename_persona,
    rollback_persona,
    tag_persona,
)
from models.queries.tenants.persona_setting import assign_persona, clear_persona, set_persona
from models.queries.tenants.personas import find_persona, get_persona, latest_persona, persona_versions, personas_of
from models.queries.tenants.policy import usage

__all__ = [
    "assign_persona",
    "assigned_persona",
    "assignments_of",
    "audit_log",
    "begin_regeneration",
    "begin_turn",
    "block_member",
    "change_guild_settings",
    "change_member_settings",
    "chosen_model",
    "clear_persona",
    "close_deliveries",
    "create_persona",
    "delete_persona",
    "edit_persona",
    "effective_persona",
    "end_dialog",
    "fail_turn",
    "find_persona",
    "finish_continuation",
    "finish_regeneration",
    "finish_turn",
    "forget_last",
    "forget_turn",
    "get_persona",
    "guild_joined",
    "guild_removed",
    "guild_settings",
    "history",
    "interrupt_dead_turns",
    "latest_persona",
    "member_settings",
    "persona_levels",
    "persona_versions",
    "personas_of",
    "rate_persona",
    "reconcile_guilds",
    "record_audit",
    "rename_persona",
    "rollback_persona",
    "select_variant",
    "set_guild_settings",
    "set_member_settings",
    "set_persona",
    "tag_persona",
    "undo_reset",
    "usage",
    "variants",
]
