"""The database half's errors in the bot's own terms. The one place that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bot.errors import BotError, DatabaseUnavailable, Duplicate, QuotaUsedUp
from models import errors as stored


@contextmanager
def translate_database_errors() -> Iterator[None]:
    """Let what goes wrong in the database leave this block as a BotError."""
    try:
        yield
    except stored.DuplicateInteraction as error:
        raise Duplicate() from error
    except stored.QuotaExceeded as error:
        raise QuotaUsedUp(error.unit, error.limit, error.resets_at) from error
    except stored.MemberBlocked as error:
        raise BotError("An admin of this guild has blocked you from chatting with me.") from error
    except stored.DatabaseUnavailable as error:
        raise DatabaseUnavailable(error.reason) from error
    except stored.DatabaseError as error:
        raise DatabaseUnavailable(str(error)) from error
