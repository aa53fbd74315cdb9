"""Exceptions of the database layer, each with the data its message is made of. Knows no driver and no SQLAlchemy."""

from __future__ import annotations

from datetime import datetime

from models.types.limits import LimitedBy

UPGRADE_COMMAND = "guildllama db upgrade"


class DatabaseError(Exception):
    """Base class of the exceptions that `models` raises on purpose."""


class DatabaseUnavailable(DatabaseError):
    """The database is unreachable, locked for too long, full, read-only or damaged."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RevisionError(DatabaseError):
    """The schema is not at the revision that this program needs."""

    def __init__(self, found: str | None, expected: str, command: str = UPGRADE_COMMAND) -> None:
        known = f"at revision {found}" if found else "empty"
        super().__init__(f"the database is {known}, this program needs {expected}: run `{command}` (or `make migrate`)")
        self.found = found
        self.expected = expected
        self.command = command


class NewerDatabase(RevisionError):
    """A later version of this program has upgraded the database; nothing of this version can read it safely."""

    remedy = "Install the version of guildllama that upgraded it, or restore a backup made before that."

    def __init__(self, found: str, newest_known: str) -> None:
        DatabaseError.__init__(
            self,
            f"the database is newer than this program: it is at revision {found}, and this program knows revisions up "
            f"to {newest_known}. {self.remedy}",
        )
        self.found = found
        self.expected = newest_known
        self.command = UPGRADE_COMMAND


class UnsupportedEncoding(DatabaseError):
    """The Postgres database has an encoding that cannot hold every text."""

    remedy = "Create one with: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0."

    def __init__(self, encoding: str) -> None:
        super().__init__(f"the database's encoding is {encoding}, and only UTF8 can hold every message. {self.remedy}")
        self.encoding = encoding


class ForeignDatabase(DatabaseError):
    """The database holds tables of another program; nothing is created in it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TurnGone(DatabaseError):
    """The turn that a change refers to was deleted, or its dialog has ended."""

    def __init__(self) -> None:
        super().__init__("this turn is not in the open dialog any more")


class DuplicateInteraction(DatabaseError):
    """This interaction or message was processed before, by this process or another one."""

    def __init__(self, interaction_id: int) -> None:
        super().__init__(f"interaction {interaction_id} was already processed")
        self.interaction_id = interaction_id


class QuotaExceeded(DatabaseError):
    """A daily quota is used up, of the member or of the guild as a whole (`by`). `unit` is turns or tokens."""

    def __init__(self, unit: str, limit: int, resets_at: datetime, by: LimitedBy = "member") -> None:
        super().__init__(
            f"the daily limit of {limit} {unit} of a {by} is used up; it starts again at {resets_at:%H:%M} UTC"
        )
        self.by: LimitedBy = by
        self.unit = unit
        self.limit = limit
        self.resets_at = resets_at


class MemberBlocked(DatabaseError):
    """An admin of the guild has blocked this member from chatting, until a moment or (None) for good."""

    def __init__(self, until: datetime | None, reason: str | None) -> None:
        super().__init__("an admin of this guild has blocked this member")
        self.until = until
        self.reason = reason


class WrongEncryptionKey(DatabaseError):
    """Stored text is encrypted and no configured key decrypts it, or a configured key is malformed."""


class PersonaNameTaken(DatabaseError):
    """The library has a persona of this name."""

    def __init__(self, name: str) -> None:
        super().__init__("the library has a persona of this name")
        self.name = name


class PersonaLibraryFull(DatabaseError):
    """The library holds as many personas as it may."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the library holds {limit} personas, and may hold no more")
        self.limit = limit
