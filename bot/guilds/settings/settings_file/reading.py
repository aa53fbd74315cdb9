"""Reads a file of settings, and says in one line what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from bot.errors import Hint
from bot.guilds.settings.settings_file.schema import MAX_BYTES, VERSION, Listed, SettingsFile
from bot.i18n.catalogues import translations
from bot.i18n.language import gettext as _

_MAX_NAMED_KEYS, _MAX_KEY_CHARS = 5, 60


def read_file(data: bytes) -> Listed:
    """The settings in a file. Raises Hint, which names what does not fit."""
    if len(data) > MAX_BYTES:
        raise Hint(_("This file is too large for settings."))
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except _Repeated as repeated:
        raise Hint(_("The key {key} stands in this file twice.").format(key=_key(repeated.args[0]))) from None
    except (ValueError, RecursionError):
        raise Hint(_("This is no file that `/config export` has made: it is not JSON.")) from None
    version = value.get("guildllama_settings") if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise Hint(_("This is no file that `/config export` has made."))
    if version != VERSION:
        raise Hint(_("This file is of a version that I do not know. I read version {number}.").format(number=VERSION))
    try:
        found = SettingsFile.model_validate(value).settings
    except ValidationError as error:
        raise Hint(_problem(error)) from None
    if found.language is not None and found.language not in translations():
        raise Hint(_("The value of {key} does not fit.").format(key="`settings.language`"))
    return found


def _problem(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    unknown = [_path(each["loc"]) for each in details if each["type"] == "extra_forbidden"]
    if unknown:
        named = ", ".join(unknown[:_MAX_NAMED_KEYS])
        return _("I do not know these keys, so I took nothing from this file: {keys}.").format(keys=named)
    return _("The value of {key} does not fit.").format(key=_path(details[0]["loc"]))


def _path(location: Iterable[int | str]) -> str:
    return _key(".".join(str(each) for each in location))


def _key(name: str) -> str:
    """A key of a stranger's file, so that it looks like nothing else."""
    kept = "".join(char for char in name if char.isprintable() and char != "`")
    return f"`{kept[:_MAX_KEY_CHARS] or '?'}`"


class _Repeated(Exception):
    """A key that stands twice in one object."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Repeated(key)
        found[key] = value
    return found


def _refuse(constant: str) -> None:
    raise ValueError("no setting is such a number")  # NaN and Infinity, which Python would take
