"""Every error that the bot may show to a person, each with its message of one line; one module a subject.

The use cases raise these, and each front-end renders them in one place. `reason` has the details for the operator: it
goes to the log, never into the message. Knows nothing of Discord, SQL or HTTP.
"""

from bot.errors.base import BotError, Hint
from bot.errors.config import EXIT_CONFIG, ConfigError
from bot.errors.engine import EngineRefused, EngineTimeout, EngineUnavailable, EngineUnreadable, ImagesNotSeen
from bot.errors.limits import AboveLimit, LimitReached, QuotaUsedUp, TooManyMessages, relative_time
from bot.errors.personas import PersonaExists, TooManyPersonas, UnknownPersona
from bot.errors.safety import MemberIsBlocked, MessageFiltered, MessageUnchecked, ReplyFiltered
from bot.errors.service import (
    Busy,
    DatabaseUnavailable,
    Duplicate,
    NothingToRegenerate,
    ReplyDeleted,
    ShuttingDown,
)
from bot.errors.texts import (
    THINGS,
    EmptyMessage,
    EmptyText,
    FilesRefused,
    MessageTooLong,
    NulCharacters,
    PersonaTooLong,
    PromptTooLong,
    TooLong,
)

__all__ = [
    "EXIT_CONFIG",
    "THINGS",
    "AboveLimit",
    "BotError",
    "Busy",
    "ConfigError",
    "DatabaseUnavailable",
    "Duplicate",
    "EmptyMessage",
    "EmptyText",
    "EngineRefused",
    "EngineTimeout",
    "EngineUnavailable",
    "EngineUnreadable",
    "FilesRefused",
    "Hint",
    "ImagesNotSeen",
    "LimitReached",
    "MemberIsBlocked",
    "MessageFiltered",
    "MessageTooLong",
    "MessageUnchecked",
    "NothingToRegenerate",
    "NulCharacters",
    "PersonaExists",
    "PersonaTooLong",
    "PromptTooLong",
    "QuotaUsedUp",
    "ReplyDeleted",
    "ReplyFiltered",
    "ShuttingDown",
    "TooLong",
    "TooManyMessages",
    "TooManyPersonas",
    "UnknownPersona",
    "relative_time",
]
