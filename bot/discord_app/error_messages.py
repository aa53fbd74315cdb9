"""The one mapping from errors to what a member reads and what the log says; an error id connects the two.

Knows discord.py's command errors and the bot's own. Details go to the log only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from discord import app_commands

from bot.discord_app.context import Interaction
from bot.discord_app.delivery import DISCORD_ERRORS, describe_error, send_error
from bot.discord_app.replies.quoting import small_lines
from bot.errors import BotError, Duplicate, FilesRefused, Hint
from bot.i18n.language import gettext as _
from bot.log import reason_of
from bot.storage import translate_database_errors

log = structlog.get_logger(__name__)


async def report_error(interaction: Interaction, error: Exception) -> None:
    """Log an error that ended an interaction and show it to the member."""
    if isinstance(error, app_commands.CommandInvokeError):
        error = error.original
    if isinstance(error, Duplicate):
        log.info("another process answers this interaction", interaction=interaction.id)
        return
    shown = explain(error)
    fields = {"error_id": shown.error_id, "interaction": interaction.id, "guild": interaction.guild_id}
    if isinstance(error, BotError | app_commands.AppCommandError):
        log.info("a request was refused", error=type(error).__name__, reason=reason_of(error), **fields)
    elif isinstance(error, DISCORD_ERRORS):
        log.warning("Discord did not accept a response", error=describe_error(error), **fields)
    else:
        log.error("a request failed", exc_info=error, **fields)
    await send_error(interaction, shown_text(shown))


def shown_text(error: BotError) -> str:
    """What the member reads. The id of an error is in the log; a hint is no error."""
    if isinstance(error, FilesRefused):
        return small_lines(error.lines).rstrip()
    message = _(error.user_message)  # told in the language of who reads it now
    if isinstance(error, Hint):
        return message
    return _("{message} (error {error_id})").format(message=message, error_id=error.error_id)


def explain(error: Exception) -> BotError:
    """Any error as a BotError: one friendly line and an id."""
    if isinstance(error, BotError):
        return error
    if isinstance(error, app_commands.CommandNotFound | app_commands.CommandSignatureMismatch):
        return BotError(_("My commands have changed. Please reload Discord (Ctrl+R) and try again."))
    if isinstance(error, app_commands.TransformerError):
        return BotError(_("I do not understand one of the options. Please check them and try again."))
    if isinstance(error, app_commands.CheckFailure):
        return BotError(_("You may not do this here."))
    return BotError(_("Something went wrong on my side. Please try again."))


@contextmanager
def log_database_errors(task: str, **fields: int) -> Iterator[None]:
    """Log and drop database errors, for work that no member waits for and that a later event or start repeats."""
    try:
        with translate_database_errors():
            yield
    except BotError as error:
        log.error("the database could not be reached", task=task, reason=error.reason, **fields)
