"""Runs the parts of the examination in their order, each on its own: one that fails hides no other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from bot.errors import ConfigError
from bot.settings import Settings, load_settings
from bot.terminal.doctor import admin_page, database, discord, engine, files, machine, monitoring, process
from bot.terminal.doctor.findings import Finding, bad, print_findings
from bot.terminal.doctor.program import program_findings, settings_findings
from bot.terminal.help_texts import PARTS

_PARTS: dict[str, Callable[[Settings], Iterator[Finding]]] = {
    "settings": settings_findings,
    "files": files.findings,
    "database": database.findings,
    "discord": discord.findings,
    "engine": engine.findings,
    "machine": machine.findings,
    "monitoring": monitoring.findings,
    "admin": admin_page.findings,
}


def examine(*, only: Collection[str], as_json: bool) -> int:
    """Print the findings and return the exit code. Without `only`, every part but `process` is examined."""
    unknown = [part for part in only if part not in PARTS]
    if unknown:
        raise ConfigError("--only", f"there is no part {unknown[0]!r}", f"Choose among {', '.join(PARTS)}.")
    return print_findings(list(_findings(only)), as_json=as_json)


def _findings(only: Collection[str]) -> Iterator[Finding]:
    if not only or "settings" in only:
        yield from program_findings()
    try:
        settings = load_settings()
    except ConfigError as error:
        yield bad("settings", f"{error.setting}: {error.problem}", error.fix)
        return
    for part, examined in _PARTS.items():
        if not only or part in only:
            yield from examined(settings)
    if "process" in only:
        yield from process.findings(settings)
