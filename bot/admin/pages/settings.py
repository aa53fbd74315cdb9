"""The operator's settings, as this process reads them. Secrets and what may hold one are not shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr
from starlette.responses import Response

from bot.admin.context import Visit
from bot.settings import PREFIX, Settings
from models.urls import masked_url

_LISTS_OF_URLS = ("engine_url", "models")
_URL = re.compile(r"https?://[^\s,;]*", re.IGNORECASE)


async def settings_page(visit: Visit) -> Response:
    """Each setting with its value, and whether it was set."""
    return visit.page("settings.html", "Settings", rows=shown_settings(visit.admin.settings))


def shown_settings(settings: Settings) -> list[tuple[str, str, bool]]:
    """Name, value as it may be seen, and whether it was set."""
    rows = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        given = name in settings.model_fields_set
        rows.append((f"{PREFIX}{name}".upper(), _shown(name, value), given))
    return rows


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return "set, not shown"
    if value is None:
        return "not set"
    if name == "database_url":
        return masked_url(str(value))
    if name == "engine_args":
        return "set, not shown" if value else "not set"
    text = str(value)
    if name in _LISTS_OF_URLS:
        return _URL.sub(lambda url: _without_secrets(url[0]), text)
    return _without_secrets(text) if "://" in text else text


def _without_secrets(url: str) -> str:
    """A URL without user, password, query and fragment."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
