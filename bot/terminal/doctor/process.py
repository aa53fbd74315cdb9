"""Whether a bot of this machine runs and reaches its database: for health checks of containers and monitors."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from bot.settings import Settings
from bot.terminal.doctor.findings import Finding, bad, ok
from models import errors as stored
from models.maintenance.server_facts import running_processes


def findings(settings: Settings) -> Iterator[Finding]:
    """Of the bots on this host. A bot renews its row every 15 seconds, by its event loop; a stuck one does not."""
    try:
        processes = running_processes(settings.database_url)
    except stored.DatabaseError as error:
        yield bad("process", f"GUILDLLAMA_DATABASE_URL: {error}", "guildllama doctor --only database")
        return
    here = [each for each in processes if each.alive_here is not None]
    elsewhere = sum(each.renewed for each in processes if each.alive_here is None)
    alive = [each for each in here if each.alive_here and each.renewed]
    if alive:
        more = f", {elsewhere} more elsewhere" if elsewhere else ""
        yield ok("process", f"{len(alive)} running on {socket.gethostname()}{more}")
    elif any(each.alive_here for each in here):
        yield bad(
            "process", "the bot runs, but is stuck or does not reach the database", "restart it, and read its log"
        )
    else:
        yield bad("process", f"no bot runs on {socket.gethostname()} with this database", "guildllama run")
