"""The operator's web page, as far as its settings were changed. Its port is checked with the other ports."""

from __future__ import annotations

from collections.abc import Iterator

from bot.admin.access.address import check_address
from bot.errors import ConfigError
from bot.settings import Settings
from bot.terminal.doctor.findings import Finding, bad, ok


def findings(settings: Settings) -> Iterator[Finding]:
    """Whether `guildllama admin` would listen, and how one signs in."""
    if not {"admin_host", "admin_password_hash", "admin_url"} & settings.model_fields_set:
        return
    try:
        check_address(settings)
    except ConfigError as error:
        yield bad("admin", f"{error.setting}: {error.problem}", error.fix)
        return
    how = "a link in the terminal" if settings.admin_password_hash is None else "a password"
    yield ok("admin", f"{settings.admin_host} port {settings.admin_port}, signed in to with {how}")
