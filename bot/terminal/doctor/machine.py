"""The machine: limits of the process, and TCP ports that settings name."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Iterator, Mapping

from bot.settings import PREFIX, Settings
from bot.terminal.doctor.findings import Finding, bad, note, ok

FEW_FILES = 1024


def findings(settings: Settings) -> Iterator[Finding]:
    """Of open files, and of the ports to listen on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        yield note("limits", f"{soft} open files allowed; many replies at once need more", f"ulimit -n {hard}")
    else:
        yield ok("limits", f"{soft} open files allowed")
    yield from port_findings(
        {name: getattr(settings, name) for name in settings.model_fields_set if name.endswith("_port")}
    )


def port_findings(ports: Mapping[str, int | None]) -> Iterator[Finding]:
    """Of TCP ports of this machine by the settings that name them. A port may be in use by the running bot itself."""
    by_port: dict[int, str] = {}
    for setting, port in ports.items():
        if port is None or port == 0:
            continue
        name = f"{PREFIX}{setting}".upper()
        if port in by_port:
            yield bad("ports", f"{name} and {by_port[port]} are both {port}", f"{name}={port + 1}")
            continue
        by_port[port] = name
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    yield note("ports", f"{name}={port} is in use, if not by this bot", f"ss -ltnp 'sport = :{port}'")
                else:
                    yield bad(
                        "ports", f"{name}={port} cannot be listened on: {error.strerror}", f"{name}=…, above 1023"
                    )
            else:
                yield ok("ports", f"{name}={port} is free")
