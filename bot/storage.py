"""Opens the database that the settings name, and turns its errors into the bot's own.

The one place that knows both kinds of errors. Use cases raise a BotError for the person who asked; the start of a
command raises a ConfigError for the operator. Knows no queries, and prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bot.errors import ConfigError, DatabaseUnavailable, Duplicate, MemberIsBlocked, QuotaUsedUp
from bot.settings import Settings
from bot.telemetry.metrics import observe_transaction
from models import errors as stored
from models.application import TERMINAL
from models.database import Database
from models.migrate import check_revision, upgrade

_URL_SETTING = "GUILDLLAMA_DATABASE_URL"


def prepare_database(url: str) -> None:
    """Create the schema in an empty database. Raises ConfigError unless the database is at our revision. Blocking.

    An older schema is not migrated here: the operator chooses the moment, and may want a backup first.
    """
    with config_errors():
        try:
            check_revision(url)
        except stored.RevisionError as error:
            if error.found is not None:
                raise
            upgrade(url)


def open_database(settings: Settings, *, application_id: int | None = TERMINAL) -> Database:
    """The database of the settings, for one Discord application: None, until the bot has logged in.

    Raises ConfigError for a URL or keys that cannot be used.
    """
    with config_errors():
        return Database(
            settings.database_url,
            encryption_keys=encryption_keys(settings),
            application_id=application_id,
            guarded=True,
            on_transaction=observe_transaction,
        )


def open_checked(settings: Settings) -> Database:
    """The database of the settings. Raises ConfigError unless it exists and is at this program's revision."""
    with config_errors():
        check_revision(settings.database_url)
        return open_database(settings)


def encryption_keys(settings: Settings) -> tuple[str, ...]:
    """The keys of ENCRYPTION_KEYS, newest first; separated by commas or white space."""
    if settings.encryption_keys is None:
        return ()
    return tuple(settings.encryption_keys.get_secret_value().replace(",", " ").split())


@contextmanager
def translate_database_errors() -> Iterator[None]:
    """Turn a database error that leaves this block into a BotError."""
    try:
        yield
    except stored.DuplicateInteraction as error:
        raise Duplicate() from error
    except stored.QuotaExceeded as error:
        raise QuotaUsedUp(error.unit, error.limit, error.resets_at, by=error.by) from error
    except stored.MemberBlocked as error:
        raise MemberIsBlocked(error.until, error.reason) from error
    except stored.DatabaseUnavailable as error:
        raise DatabaseUnavailable(error.reason) from error
    except stored.DatabaseError as error:
        raise DatabaseUnavailable(str(error)) from error


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn a database error that leaves this block into a ConfigError that names the fix."""
    try:
        yield
    except (stored.NewerDatabase, stored.UnsupportedEncoding) as error:
        raise ConfigError(_URL_SETTING, str(error), "") from error
    except stored.RevisionError as error:
        raise ConfigError(
            _URL_SETTING, str(error).partition(":")[0], f"Run `{error.command}` (or `make migrate`)."
        ) from error
    except stored.ForeignDatabase as error:
        raise ConfigError(_URL_SETTING, error.reason, "Nothing was changed.") from error
    except stored.WrongEncryptionKey as error:
        raise ConfigError(
            "GUILDLLAMA_ENCRYPTION_KEYS", str(error), "Keep every key that rows were sealed with."
        ) from error
    except stored.DatabaseUnavailable as error:
        fix = "Check the URL, that the database runs, and that this user may write to it."
        raise ConfigError(_URL_SETTING, f"the database cannot be used: {error.reason}", fix) from error
    except stored.DatabaseError as error:
        raise ConfigError(_URL_SETTING, str(error), "Nothing was changed.") from error
