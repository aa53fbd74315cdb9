"""Folders of dead bots are removed at the next start; those of living ones, of others and of anything else stay."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.engine_process import folder
from bot.engine_process.folder import PREFIX, EngineFolder, remove_leftovers
from bot.engine_process.supervisor import EngineProcess
from bot.settings import Settings

HOLDER = (
    "import sys, time; from bot.engine_process.folder import EngineFolder\n"
    "made = EngineFolder(); (made.path / 'launcher').mkdir(); (made.path / 'launcher' / 'log').touch()\n"
    "(made.path / 'engine.sock').touch(); print(made.path, flush=True); time.sleep(600)"
)


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary directory of these bots. Short, since a socket's path may have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="gl"))
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield path
    shutil.rmtree(path)


def bot() -> tuple[subprocess.Popen[str], Path]:
    """A process with a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


async def test_attack_the_folder_of_a_killed_bot_is_gone_after_the_next_start(tmp: Path):
    (dead, its), (living, other) = bot(), bot()
    kill(dead)
    assert its.exists()
    engine = EngineProcess(Settings(_env_file=None))
    assert not its.exists()
    assert (other / "launcher" / "log").exists()
    assert set(os.listdir(tmp)) == {other.name, engine._folder.path.name}
    await engine.stop()
    kill(living)
    assert remove_leftovers() == 1
    assert os.listdir(tmp) == []


def test_attack_a_bot_that_was_killed_before_it_locked_its_folder(tmp: Path):
    tempfile.mkdtemp(prefix=PREFIX)
    assert remove_leftovers() == 1


def test_attack_starting_and_removing_at_once(tmp: Path):
    """A folder is not taken for a leftover in the moment between its creation and its lock."""
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            remove_leftovers()

    removers = [threading.Thread(target=remove) for _ in range(3)]
    for thread in removers:
        thread.start()
    made = [EngineFolder() for _ in range(150)]
    stop.set()
    for thread in removers:
        thread.join()
    assert all(each.path.is_dir() for each in made)
    for each in made:
        each.remove()
        each.remove()
    remove_leftovers()
    assert [*tmp.iterdir()] == []


def test_attack_links_are_not_followed(tmp: Path):
    precious = tmp / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp / f"{PREFIX}link").symlink_to(precious)
    inside = tmp / f"{PREFIX}inside"
    inside.mkdir()
    (inside / "link").symlink_to(precious)
    (inside / "file link").symlink_to(precious / "file")
    assert remove_leftovers() == 1
    assert (precious / "file").exists()
    assert (tmp / f"{PREFIX}link").is_symlink()
    assert not inside.exists()


@pytest.mark.parametrize("name", [f"{PREFIX}file", f"{PREFIX}fifo", "guildllama-restore-abcdefgh", "other"])
def test_attack_what_is_not_such_a_folder_stays(tmp: Path, name: str):
    path = tmp / name
    if name.endswith("file"):
        path.touch()
    elif name.endswith("fifo"):
        os.mkfifo(path)
    else:
        path.mkdir()
        os.utime(path, (0, 0))
    assert remove_leftovers() == 0
    assert path.exists()


def test_attack_another_users_folder_stays(tmp: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp / f"{PREFIX}abc").mkdir()
    monkeypatch.setattr(folder.os, "geteuid", lambda: 12345)
    assert remove_leftovers() == 0
    assert (tmp / f"{PREFIX}abc").exists()


def test_attack_a_file_system_without_locks(tmp: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(folder.fcntl, "flock", refuse)
    made = EngineFolder()
    assert remove_leftovers() == 0
    assert made.path.exists()
    made.remove()
    assert not made.path.exists()


class TestOlderVersions:
    """Their folders have another name, hold a socket at most, and are locked by nobody."""

    def make(self, tmp: Path, fill: Callable[[Path], object], age: float) -> Path:
        path = tmp / "guildllama-ab_cd123"
        path.mkdir(mode=0o700)
        fill(path)
        os.utime(path, (time.time() - age, time.time() - age))
        return path

    def test_one_that_nobody_listens_in_goes(self, tmp: Path):
        with socket.socket(socket.AF_UNIX) as dead:
            path = self.make(tmp, lambda path: dead.bind(str(path / "engine.sock")), 7200)
        assert remove_leftovers() == 1
        assert not path.exists()

    def test_a_living_one_a_new_one_and_one_with_other_files_stay(self, tmp: Path):
        with socket.socket(socket.AF_UNIX) as living:
            path = self.make(tmp, lambda path: (living.bind(str(path / "engine.sock")), living.listen()), 7200)
            assert remove_leftovers() == 0
            shutil.rmtree(path)
        for fill, age in ((lambda path: None, 60), (lambda path: (path / "notes").touch(), 7200)):
            path = self.make(tmp, fill, age)
            assert remove_leftovers() == 0
            shutil.rmtree(path)
