"""Processes by their command lines, from /proc: for tests that count or kill the engines of a bot."""

from __future__ import annotations

from pathlib import Path


def command_lines() -> dict[int, list[str]]:
    """Each process id with its arguments."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[int(entry.parent.name)] = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
    return found


def pids_naming(fragment: str) -> list[int]:
    """The processes with this text in an argument."""
    return [pid for pid, words in command_lines().items() if any(fragment in word for word in words)]


def socket_folder(words: list[str]) -> str | None:
    """The folder of an engine's socket, from the command line of the engine or its guard."""
    return str(Path(words[words.index("--uds") + 1]).parent) if "--uds" in words else None


def parent(pid: int) -> int:
    """The id of a process's parent. Raises OSError if it has ended."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
