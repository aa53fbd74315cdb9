"""The host's free memory, from files such as Linux shows them."""

from pathlib import Path

import pytest

from engine.runner.host_memory import available_host_bytes

GIB = 1 << 30
MEMINFO = "MemTotal:       66000000 kB\nMemFree:         1000000 kB\nMemAvailable:   41943040 kB\n"  # 40 GiB


def host(root: Path, **cgroup: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(MEMINFO)
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    for name, text in cgroup.items():
        (folder / f"memory.{name}").write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ({}, 40 * GIB),
        ({"max": "max\n", "current": f"{9 * GIB}\n"}, 40 * GIB),
        ({"max": f"{16 * GIB}\n", "current": f"{6 * GIB}\n"}, 10 * GIB),
        ({"max": f"{100 * GIB}\n", "current": f"{6 * GIB}\n"}, 40 * GIB),
        ({"max": f"{4 * GIB}\n", "current": f"{5 * GIB}\n"}, 0),
    ],
    ids=["no container", "no limit", "the container's limit", "the machine's memory", "over the limit"],
)
def test_the_smaller_of_the_machine_and_the_container(tmp_path: Path, cgroup: dict[str, str], expected: int) -> None:
    assert available_host_bytes(host(tmp_path, **cgroup)) == expected


def test_the_page_cache_of_a_container_is_available(tmp_path: Path) -> None:
    stat = f"anon {GIB}\nfile {14 * GIB}\nactive_file {GIB}\ninactive_file {13 * GIB}\n"
    root = host(tmp_path, max=f"{16 * GIB}\n", current=f"{15 * GIB}\n", stat=stat)
    assert available_host_bytes(root) == 14 * GIB


def test_this_machine_has_memory() -> None:
    assert available_host_bytes() > 0
