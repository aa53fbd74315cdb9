"""Reads the settings from the environment and from .env, and says of a wrong one what is wrong."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from bot.errors import ConfigError
from bot.settings.settings import PREFIX, Settings

NOT_SETTINGS = frozenset({f"{PREFIX}CRASH_AT"})
"""Variables with our prefix that are not settings: hooks for tests."""


def load_settings(*, env_file: str | Path | None = ".env", **overrides: object) -> Settings:
    """The settings of this process. Raises ConfigError for the first one that is not valid.

    An override of None leaves the setting as it is.
    """
    given: dict[str, Any] = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(_env_file=env_file, **given)
    except ValidationError as error:
        raise _config_error(error) from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(str(env_file), f"cannot be read: {error}", "Save it as a UTF-8 text file.") from None


def _config_error(error: ValidationError) -> ConfigError:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    first = details[0]
    problem = first["msg"].removeprefix("Value error, ")
    setting = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else "settings"
    if not first["loc"] and problem.startswith(PREFIX):
        setting, _, problem = problem.partition(" ")  # about several of them, it names one
    more = f" {len(details) - 1} more settings are wrong as well." if len(details) > 1 else ""
    return ConfigError(setting, problem, f"Correct it in the environment or in .env.{more}")


def unknown_variables(
    environ: Mapping[str, str] = os.environ, *, env_file: str | Path | None = ".env"
) -> Iterator[tuple[str, str | None]]:
    """Each GUILDLLAMA_* variable that is not a setting, with the most similar setting: probably a typing error."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    names = set(environ)
    if env_file is not None and Path(env_file).is_file():
        names |= set(dotenv_values(env_file))
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in known | NOT_SETTINGS:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            yield name, near[0] if near else None
