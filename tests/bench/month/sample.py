"""What a process and its database use, from the outside: memory, descriptors, threads, CPU time, disk, rows.

Reads /proc, the files of a SQLite database and the catalogue of Postgres. Knows nothing of the month.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

from models.urls import sqlite_path

MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_mib(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / MIB


def num_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def num_threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return sum(int(each) for each in fields[11:15]) / _TICKS


def tree_cpu_seconds(pid: int) -> float:
    """The same of a process and all that it started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    total, left = 0.0, [pid]
    while left:
        each = left.pop()
        total += cpu_seconds(each)
        left += parents.get(each, [])
    return total


def machine_seconds() -> tuple[float, float]:
    """Busy and all CPU time of the machine since its start."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS, sum(fields) / _TICKS


def database_figures(url: str) -> dict[str, object]:
    """Size on disk and rows by table."""
    path = sqlite_path(url)
    return _postgres_figures(url) if path is None else _sqlite_figures(path)


def _sqlite_figures(path: Path) -> dict[str, object]:
    wal = path.with_name(path.name + "-wal")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in names}
        [free] = database.execute("PRAGMA freelist_count").fetchone()
    return {
        "database_mib": round(path.stat().st_size / MIB, 2),
        "wal_mib": round(wal.stat().st_size / MIB, 2) if wal.exists() else 0.0,
        "free_pages": free,
        "rows": _own(rows),
    }


def _postgres_figures(url: str) -> dict[str, object]:
    with psycopg.connect(url, autocommit=True) as database:
        names = [row[0] for row in database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        rows = {}
        for name in names:
            found = database.execute(f'SELECT count(*) FROM "{name}"'.encode()).fetchone()
            assert found
            rows[name] = found[0]
        size = database.execute("SELECT pg_database_size(current_database())").fetchone()
        dead = database.execute("SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables").fetchone()
        assert size
        assert dead
    return {"database_mib": round(size[0] / MIB, 2), "dead_rows": int(dead[0]), "rows": _own(rows)}


def _own(rows: dict[str, int]) -> dict[str, int]:
    return {name: rows[name] for name in sorted(rows) if not name.startswith(("sqlite_", "alembic_"))}
