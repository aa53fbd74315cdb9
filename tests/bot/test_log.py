"""The log: our events and the libraries' records in one format, and no secret in them."""

from __future__ import annotations

import asyncio
import json
import logging
import re

import pytest
import structlog

from bot.admin.access.passwords import hash_password
from bot.errors import BotError
from bot.log import HIDDEN, configure_log, reason_of, redactor
from bot.settings import Settings

TOKEN = "MTIzNDU2Nzg5.abcdef.ghijklmnop-qrstuvwx"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("PATCH https://discord.com/api/v10/webhooks/123/aW50ZXJh.x-y_z/messages/@original", "/messages/@original"),
        ("POST /interactions/99/c2VjcmV0LXRva2Vu/callback failed", "/callback failed"),
        ("https://discord.com/api/webhooks/123/c2VjcmV0LXRva2Vu?wait=true", "?wait=true"),
        ("postgresql://me:c2VjcmV0LXRva2Vu@db/guildllama", "@db/guildllama"),
        ("Authorization: Bot c2VjcmV0LXRva2Vu", "Authorization: Bot"),
        ("{'token': 'c2VjcmV0LXRva2Vu', 'id': 5}", "'id': 5"),
        (f"my own {TOKEN} in the middle", "in the middle"),
    ],
)
def test_redacted(text: str, kept: str):
    redacted = redactor((TOKEN,))(text)
    assert "c2VjcmV0" not in redacted
    assert "aW50ZXJh" not in redacted
    assert TOKEN not in redacted
    assert HIDDEN in redacted
    assert kept in redacted


def test_the_value_of_each_secret_setting_is_redacted(capsys: pytest.CaptureFixture[str]):
    secret = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    assert {"discord_token", "encryption_keys", "engine_api_key", "moderation_api_key"} <= set(secret)
    values = {name: f"{name}-first\n{name}-second,{name}-third" for name in secret}
    values["admin_password_hash"] = hash_password("the first and the second")
    values["model_api_keys"] = "fast=keys-first==,keys-second;slow=keys-third"
    configure_log(Settings(_env_file=None, models="fast=http://a.test,http://b.test;slow=http://c.test", **values))
    for value in values.values():
        for part in re.split(r"[\n,;]|(?<=w|t)=(?=keys)", value):
            logging.getLogger("any").warning("it was %s", part)
    assert HIDDEN in (err := capsys.readouterr().err)
    assert not re.search("first|second|third", err)


def test_a_cancelled_task_is_not_logged_as_an_error(capsys: pytest.CaptureFixture[str]):
    configure_log(Settings(_env_file=None))
    for error in (asyncio.CancelledError(), LookupError("real")):
        try:
            raise error
        except BaseException:
            logging.getLogger("apscheduler.executors.default").exception("the job raised")
    err = capsys.readouterr().err
    assert err.count("the job raised") == 1
    assert "LookupError" in err


async def test_what_asyncio_has_to_say_without_an_exception_is_logged(capsys: pytest.CaptureFixture[str]):
    """Such as a connection that nobody closed: it logs with `exc_info=False`, which is no exception and not None."""
    configure_log(Settings(_env_file=None, log_format="json"))
    asyncio.get_running_loop().call_exception_handler({"message": "Unclosed connection"})
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "Unclosed connection"


@pytest.mark.parametrize("log_format", ["pretty", "json"])
def test_both_kinds_of_records_are_formatted_and_redacted_alike(capsys: pytest.CaptureFixture[str], log_format: str):
    configure_log(Settings(_env_file=None, discord_token=TOKEN, log_format=log_format, log_level="DEBUG"))
    structlog.get_logger("ours").info("turn done", turn=7, url=f"/webhooks/1/{TOKEN}x/messages")
    logging.getLogger("theirs").warning("token is %s", TOKEN)
    logging.getLogger("discord.http").debug("POST with body %s", "everything")
    try:
        raise LookupError(TOKEN)
    except LookupError:
        structlog.get_logger("ours").exception("broken")
    err = capsys.readouterr().err
    assert TOKEN not in err
    assert "turn done" in err
    assert "LookupError" in err
    assert "everything" not in err
    if log_format == "json":
        events = [json.loads(line) for line in err.splitlines()]
        assert events[0]["turn"] == 7
        assert events[1]["logger"] == "theirs"


def words(secret: str) -> None:
    """Fail with errors that quote a text, one in the other, as a library might."""
    try:
        int(secret)
    except ValueError as error:
        error.add_note(secret)
        raise ExceptionGroup(secret, [KeyError(secret), OSError(28, secret)]) from error


@pytest.mark.parametrize("form", ["json", "pretty"])
@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_what_an_unforeseen_error_quotes_is_logged_only_at_debug(
    capsys: pytest.CaptureFixture[str], form: str, level: str
):
    configure_log(Settings(_env_file=None, log_format=form, log_level=level))
    try:
        words("".join(("xyz", "zy")))  # lines of code are shown
    except Exception as error:
        structlog.get_logger("ours").exception("it failed")
        structlog.get_logger("ours").error("it failed", exc_info=error)
        logging.getLogger("theirs").exception("it failed")
    err = capsys.readouterr().err
    assert err.count("it failed") == 3
    assert err.count("in words") >= 3  # where it happened
    for kind in ("ExceptionGroup", "KeyError", "OSError", "ValueError"):
        assert err.count(kind) >= 3
    assert "No space left on device" in err or level == "DEBUG"
    assert ("xyzzy" in err) == (level == "DEBUG")


def test_the_log_names_a_reason_of_ours_or_where_an_error_came_from():
    with pytest.raises(BotError) as raised:
        raise BotError("There is no persona called xyzzy.")
    assert re.fullmatch(r"test_log\.py:\d+ test_the_log_names_\w+", reason_of(raised.value))
    assert reason_of(BotError("xyzzy", reason="the database is away")) == "the database is away"
    assert reason_of(BotError("xyzzy")) == "BotError"
