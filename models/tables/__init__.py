"""Every table. Import tables from this package, so that `Base.metadata` is complete."""

import models.sqlite.sqlite_comments  # noqa: F401  installs its compiler hooks
from models.base import Base
from models.tables.accounts import AuditEntry, DailyUsage, OptOut, ProcessedInteraction
from models.tables.administration import MemberBlock, Purge, Report, ReportChannel, ReportSpeaker
from models.tables.application import DiscordApplication
from models.tables.deliveries import Delivery, DeliveryMessage
from models.tables.dialogs import Dialog, ReplyVariant, Turn, TurnFile
from models.tables.faces import GuildProfile, Scene, SceneCharacter
from models.tables.memory import DialogSummary, Fact, MemoryWork
from models.tables.personas import Persona, PersonaAssignment, PersonaPicture, PersonaVersion
from models.tables.processes import Process, StopRequest
from models.tables.prompts import DefaultPrompt, TurnPrompt
from models.tables.settings import (
    BoundThread,
    ChannelScope,
    GuildChannel,
    GuildFilterWord,
    GuildRole,
    GuildSettingsRow,
    LockedChannel,
    MemberSettingsRow,
)
from models.tables.tenants import Guild, User

__all__ = [
    "AuditEntry",
    "Base",
    "BoundThread",
    "ChannelScope",
    "DailyUsage",
    "DefaultPrompt",
    "Delivery",
    "DeliveryMessage",
    "Dialog",
    "DialogSummary",
    "DiscordApplication",
    "Fact",
    "Guild",
    "GuildChannel",
    "GuildFilterWord",
    "GuildProfile",
    "GuildRole",
    "GuildSettingsRow",
    "LockedChannel",
    "MemberBlock",
    "MemberSettingsRow",
    "MemoryWork",
    "OptOut",
    "Persona",
    "PersonaAssignment",
    "PersonaPicture",
    "PersonaVersion",
    "Process",
    "ProcessedInteraction",
    "Purge",
    "ReplyVariant",
    "Report",
    "ReportChannel",
    "ReportSpeaker",
    "Scene",
    "SceneCharacter",
    "StopRequest",
    "Turn",
    "TurnFile",
    "TurnPrompt",
    "User",
]
