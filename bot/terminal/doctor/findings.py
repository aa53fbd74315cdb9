"""What was found: each with what mends it. Printed as lines for people, or as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import typer

from bot.terminal.help_texts import version
from bot.terminal.output import print_json
from bot.terminal.screen import wrapped

Status = Literal["ok", "note", "bad"]
_COLOURS = {"ok": "green", "note": "yellow", "bad": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """`note`: works, but an operator may want it otherwise. `fix`: a command or what to do; "" if nothing is to do."""

    part: str
    status: Status
    found: str
    fix: str = ""
    exit_code: int = 0


def ok(part: str, found: str) -> Finding:
    """Nothing to mend."""
    return Finding(part, "ok", found)


def note(part: str, found: str, fix: str = "") -> Finding:
    """The bot works with it."""
    return Finding(part, "note", found, fix)


def bad(part: str, found: str, fix: str, exit_code: int = 1) -> Finding:
    """The bot does not start, or members will notice."""
    return Finding(part, "bad", found, fix, exit_code)


def print_findings(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print them and return the exit code: 0, 1, or 78 for what no command would work with."""
    code = max((finding.exit_code for finding in findings), default=0)
    if as_json:
        lines = [{"part": each.part, "status": each.status, "found": each.found, "fix": each.fix} for each in findings]
        print_json({"ok": code == 0, "version": version(), "findings": lines})
        return code
    for each in findings:
        mark = typer.style(f"{each.status:4}", fg=_COLOURS[each.status])
        typer.echo(f"{mark} {wrapped(f'{each.part}: {each.found}', indent=5)}")
        if each.fix:
            typer.echo(f"     → {wrapped(each.fix, indent=7)}")
    return code
