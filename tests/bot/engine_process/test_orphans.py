"""Nothing of a bot outlives it, whatever is killed or stopped, in whatever order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.bot.engine_process.tree import MEMBERS, ROOT, Nursery, Tree, all_gone, running
from tests.bot.processes import command_lines

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel does it on Linux only")

Act = tuple[str, signal.Signals]
ACTS: list[Act] = [*product(MEMBERS, (signal.SIGKILL, signal.SIGSTOP))]
FEWER_ACTS = [act for act in ACTS if act[0] != "rank 1"]  # one rank stands for both
TINY = ROOT / "tests" / "golden" / "llama2-tiny-mp2"


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as opened:
        yield opened


def end(tree: Tree, acts: list[Act], pause: float = 0.0) -> None:
    """Do this to the tree, and then kill its bot."""
    for member, number in [*acts, ("bot", signal.SIGKILL)]:
        tree.send(member, number)
        time.sleep(pause)


def test_attack_everything_is_stopped_before_the_bot_is_killed(nursery: Nursery):
    (tree,) = nursery.grow(1)
    end(tree, [(member, signal.SIGSTOP) for member in MEMBERS])
    assert all_gone([tree], 3), tree.left()


@pytest.mark.parametrize("first", FEWER_ACTS, ids=lambda act: f"{act[0]} {act[1].name}")
def test_attack_each_member_is_killed_or_stopped_alone_and_in_pairs(nursery: Nursery, first: Act):
    pairs = [[first]] + [[first, second] for second in FEWER_ACTS if second[0] != first[0]]
    trees = nursery.grow(len(pairs))
    for tree, acts in zip(trees, pairs, strict=True):
        end(tree, acts)
    assert all_gone(trees, 5), [tree.left() for tree in trees]


def test_attack_members_are_stopped_after_the_bot_was_killed(nursery: Nursery):
    """The guard may have begun its work, or not yet."""
    trees = nursery.grow(8)
    for number, tree in enumerate(trees):
        tree.send("bot", signal.SIGKILL)
        time.sleep(0.001 * number)
        for member in MEMBERS[1:]:
            tree.send(member, signal.SIGSTOP)
    assert all_gone(trees, 5), [tree.left() for tree in trees]


def test_attack_at_any_moment_of_the_start(nursery: Nursery):
    """While guard, launcher and ranks are still being started."""
    chance = random.Random(12)
    trees = nursery.grow(8, whole=False)
    for tree in trees:
        time.sleep(chance.uniform(0.0, 0.03))
        tree.send("bot", signal.SIGKILL)
    assert all_gone(trees, 5), [tree.left() for tree in trees]


@pytest.mark.long
def test_attack_three_hundred_random_orders(nursery: Nursery):
    chance = random.Random(13)
    for _ in range(30):
        trees = nursery.grow(10)
        for tree in trees:
            end(tree, chance.choices(ACTS, k=chance.randint(1, 6)), pause=chance.choice((0.0, 0.001, 0.02)))
        assert all_gone(trees, 5), [tree.left() for tree in trees]


BOT = (
    "import asyncio, sys\n"
    "from bot.settings import Settings\n"
    "from bot.engine_process.supervisor import EngineProcess\n"
    "async def main():\n"
    "    async with EngineProcess(Settings(_env_file=None, model=sys.argv[1], gpus=2, device='cpu')) as engine:\n"
    "        await engine.wait_ready()\n"
    "        print('ready in', engine._folder.path, flush=True)\n"
    "        await asyncio.sleep(600)\n"
    "asyncio.run(main())\n"
)


def test_attack_torchrun_and_its_ranks_are_stopped_with_the_guard():
    """The real engine on two ranks below the real launcher."""
    with subprocess.Popen([sys.executable, "-c", BOT, str(TINY)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as bot:
        assert bot.stdout is not None
        folder = next(line.split()[-1] for line in bot.stdout if line.startswith("ready in "))
        named = [pid for pid, words in command_lines().items() if any(folder in word for word in words)]
        assert len(named) == 4
        assert [*Path(folder).glob("launcher/*")], "the launcher's files are not in the folder"
        for pid in named:
            os.kill(pid, signal.SIGSTOP)
        bot.kill()
        deadline = time.monotonic() + 5
        while any(map(running, named)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in named if running(pid)]
