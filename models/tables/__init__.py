"""Every table. Import from here, so that the metadata is always complete."""

import models.sqlite_comments  # noqa: F401  teaches SQLite to keep comments
from models.base import Base
from models.tables.accounts import AuditEntry, DailyUsage, OptOut, ProcessedInteraction
from models.tables.dialogs import Dialog, ReplyVariant, Turn
from models.tables.personas import Persona, PersonaVersion
from models.tables.settings import GuildChannel, GuildRole, GuildSettingsRow, MemberSettingsRow
from models.tables.tenants import Guild, User

__all__ = [
    "AuditEntry",
    "Base",
    "DailyUsage",
    "Dialog",
    "Guild",
    "GuildChannel",
    "GuildRole",
    "GuildSettingsRow",
    "MemberSettingsRow",
    "OptOut",
    "Persona",
    "PersonaVersion",
    "ProcessedInteraction",
    "ReplyVariant",
    "Turn",
    "User",
]
