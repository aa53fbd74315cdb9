"""A full collection leaves out what the imports made: in a process of its own, since it holds for the whole of one."""

from __future__ import annotations

import subprocess
import sys

from tests.discord.bot_process import ROOT

PROGRAM = """
import gc
import bot.run_discord
from bot.garbage import freeze_garbage
before = len(gc.get_objects())
freeze_garbage()
print(before, len(gc.get_objects()), gc.get_freeze_count())
"""


def test_a_collection_leaves_out_what_there_was_at_the_start() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after, frozen = map(int, done.stdout.split())
    assert before > 50_000
    assert after < 1_000
    assert frozen > 50_000
