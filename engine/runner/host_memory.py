"""How much memory of the host can still be allocated: what Linux says is available, within the container's limit.

A container's use includes the page cache of files that it has read, such as the checkpoint. Linux gives that up when
memory is needed, so it counts as available.

Source: the kernel's documentation of cgroup v2, `memory.stat`.
"""

import re
from pathlib import Path

_ROOT = Path("/")


def available_host_bytes(root: Path = _ROOT) -> int:
    """Bytes that can still be allocated. `root`: where `proc` and `sys` are."""
    free = _meminfo_bytes(root, "MemAvailable")
    limit, used = _cgroup_bytes(root, "memory.max"), _cgroup_bytes(root, "memory.current")
    if limit is None or used is None:
        return free
    return max(0, min(free, limit - used + _page_cache_bytes(root)))


def _meminfo_bytes(root: Path, name: str) -> int:
    text = (root / "proc/meminfo").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _cgroup_bytes(root: Path, name: str) -> int | None:
    try:
        text = (root / "sys/fs/cgroup" / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _page_cache_bytes(root: Path) -> int:
    """Files in memory that were not used lately, of this container."""
    try:
        text = (root / "sys/fs/cgroup/memory.stat").read_text()
    except OSError:
        return 0
    found = re.search(r"^inactive_file (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0
