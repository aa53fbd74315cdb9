"""What watches the bot, as far as the settings ask for it. The port of the numbers is checked with the other ports."""

from __future__ import annotations

from collections.abc import Iterator

from bot.settings import Settings
from bot.telemetry.span_export import INSTALL, MISSING, tracing_is_installed
from bot.terminal.doctor.findings import Finding, bad, ok


def findings(settings: Settings) -> Iterator[Finding]:
    """Whether traces can be sent."""
    if settings.traces_url is None:
        return
    if tracing_is_installed():
        yield ok("traces", f"are sent to {settings.traces_url} (it was not asked)")
    else:
        yield bad("traces", f"GUILDLLAMA_TRACES_URL {MISSING}", INSTALL)
