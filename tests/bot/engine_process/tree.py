"""Bots with whole trees of real processes, light enough to start dozens: guard, launcher and ranks below each.

Run as a program, it is a nursery: it imports the supervisor once, and forks a bot for each line of its input. The
supervisor, the guard and the ranks' parent-death code are the real ones. The launcher starts its ranks as torchrun
does, each with a session of its own; a rank only sleeps.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.bot.processes import command_lines

ROOT = Path(__file__).resolve().parents[3]
RANK = (
    "import sys, time; from engine.server.parent_death import die_with_launcher; die_with_launcher();"
    "print('rank', *sys.argv[1:], file=open(sys.argv[2] + '.' + sys.argv[1], 'w')); time.sleep(600)"
)
LAUNCHER = (
    "import subprocess, sys, time, signal\n"
    "ranks = [subprocess.Popen([sys.executable, '-S', '-c', sys.argv[1], str(n), sys.argv[-1]],"
    " start_new_session=True) for n in range(2)]\n"
    "while all(rank.poll() is None for rank in ranks): time.sleep(0.05)\n"
    "[rank.terminate() for rank in ranks]\n"
)
MEMBERS = ("bot", "guard", "launcher", "rank 0", "rank 1")


class Tree:
    """The processes of one bot, by their parts."""

    def __init__(self, bot: int, folder: str) -> None:
        self.folder = folder
        lines = {pid: words for pid, words in command_lines().items() if any(folder in word for word in words)}
        self.pids = {"bot": bot}
        for pid, words in lines.items():
            if "bot.engine_process.guard" in words:
                self.pids["guard"] = pid
            elif LAUNCHER in words:
                self.pids["launcher"] = pid
            elif RANK in words:
                self.pids[f"rank {words[words.index(RANK) + 1]}"] = pid

    def send(self, member: str, number: signal.Signals) -> None:
        """Send a signal to a member that may have ended already."""
        try:
            os.kill(self.pids[member], number)
        except ProcessLookupError:
            return

    def left(self) -> dict[int, list[str]]:
        """What still runs of it, restarted engines included."""
        named = {pid: words for pid, words in command_lines().items() if any(self.folder in word for word in words)}
        return {pid: words for pid, words in named.items() if running(pid)}


def running(pid: int) -> bool:
    """Whether the process exists and is no zombie. A stopped one runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Nursery:
    """Starts trees. Use as a context manager; at its end everything is killed."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bot.engine_process.tree"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # the bots are in its group, and the rest dies with them
        self._process.communicate()

    def grow(self, count: int, *, whole: bool = True) -> list[Tree]:
        """That many trees; unless they should be `whole`, only their bots are waited for."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("bot\n" * count)
        stdin.flush()
        bots = [stdout.readline().split() for _ in range(count)]
        if not whole:
            return [Tree(int(pid), folder) for pid, folder in bots]
        deadline = time.monotonic() + 30
        for _, folder in bots:
            while len([*Path(folder).glob("engine.sock.*")]) < 2:
                assert time.monotonic() < deadline, f"no ranks in {folder}"
                time.sleep(0.02)
        trees = [Tree(int(pid), folder) for pid, folder in bots]
        assert all(sorted(tree.pids) == sorted(MEMBERS) for tree in trees)
        return trees


def all_gone(trees: Iterable[Tree], seconds: float) -> bool:
    """Wait until nothing runs of any of them."""
    deadline = time.monotonic() + seconds
    waiting = list(trees)
    while waiting and time.monotonic() < deadline:
        waiting = [tree for tree in waiting if tree.left() or running(tree.pids["bot"])]
        time.sleep(0.05)
    return not waiting


def _bot(report: int) -> None:
    from bot.engine_process.supervisor import EngineProcess
    from bot.settings import Settings

    async def main() -> None:
        engine = EngineProcess(Settings(_env_file=None), command=[sys.executable, "-S", "-c", LAUNCHER, RANK])
        engine.start()
        os.write(report, f"{os.getpid()} {engine._folder.path}\n".encode())
        os.close(report)
        await asyncio.sleep(600)

    asyncio.run(main())


def main() -> None:
    """Fork a bot for each line."""
    import bot.engine_process.supervisor  # noqa: F401  # once, for all of them

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    for _ in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            report = os.dup(1)
            null = os.open(os.devnull, os.O_RDWR)
            for standard in range(3):
                os.dup2(null, standard)
            _bot(report)
            os._exit(0)


if __name__ == "__main__":
    main()
