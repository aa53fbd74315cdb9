"""The program and its settings: Python, names of variables, values that contradict each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from bot.settings import Settings, unknown_variables
from bot.terminal.doctor.findings import Finding, bad, note, ok
from bot.terminal.help_texts import version

_OLDEST, _TOO_NEW = (3, 11), (3, 14)


def program_findings() -> Iterator[Finding]:
    """What runs this program."""
    python = ".".join(map(str, sys.version_info[:3]))
    if _OLDEST <= sys.version_info[:2] < _TOO_NEW:
        yield ok("python", f"{python}, guildllama {version()}")
    else:
        yield bad("python", f"{python}; 3.11, 3.12 and 3.13 work", "make PYTHON=python3.12 install")


def settings_findings(settings: Settings) -> Iterator[Finding]:
    """Settings that were read, and variables that were not."""
    yield ok("settings", "every value can be used")
    for name, near in unknown_variables():
        meant = f"; did you mean {near}?" if near else ""
        yield note("settings", f"{name} is no setting of this program{meant}", f"Correct or remove {name}.")
    if settings.log_level == "DEBUG":
        yield note("settings", "GUILDLLAMA_LOG_LEVEL is DEBUG: members' words are logged", "GUILDLLAMA_LOG_LEVEL=INFO")
