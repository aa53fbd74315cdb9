"""Where the page may listen: without a password on this machine alone."""

from __future__ import annotations

from bot.errors import ConfigError
from bot.settings import Settings
from bot.settings.addresses import is_loopback


def check_address(settings: Settings) -> None:
    """Raise ConfigError for an address that others reach while there is no password."""
    if settings.admin_password_hash is None and not is_loopback(settings.admin_host):
        raise ConfigError(
            "GUILDLLAMA_ADMIN_HOST",
            f"{settings.admin_host} can be reached from other machines, and there is no password",
            "Run `guildllama admin password` and set GUILDLLAMA_ADMIN_PASSWORD_HASH, or leave it at 127.0.0.1.",
        )
