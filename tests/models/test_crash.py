"""A bot process killed at failpoints and at random moments: no acknowledged reply is lost, no turn is half stored."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from models import queries
from models.database import Database
from models.migrate import ROOT, check_revision
from models.queries import inspection
from models.queries.replies import delivery_messages, recovery, unfinished_deliveries
from models.types import DialogKey

WORKER = Path(__file__).with_name("crash_worker.py")


class Crashing:
    """One database, and a worker process that is started and killed again and again."""

    def __init__(self, url: str, acks: Path) -> None:
        self.url = url
        self.acks = acks

    def run_worker(
        self, *, seed: int, seconds: float | None = None, crash_at: str | None = None, until_acknowledged: bool = False
    ) -> int:
        """Run the worker until it is killed: after `seconds`, or at the failpoint `crash_at`."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop("GUILDLLAMA_CRASH_AT", None)
        if crash_at is not None:
            environment["GUILDLLAMA_CRASH_AT"] = crash_at
        process = subprocess.Popen(
            [sys.executable, str(WORKER), self.url, str(self.acks), str(seed)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        if seconds is not None:
            time.sleep(seconds)
            deadline = time.monotonic() + 60
            while until_acknowledged and not self.acknowledged() and time.monotonic() < deadline:
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, errors.decode()
        return process.returncode

    def acknowledged(self) -> set[int]:
        return {int(line) for line in self.acks.read_text().split()} if self.acks.exists() else set()


@pytest.fixture
def crashing(database_url: str, tmp_path: Path) -> Crashing:
    return Crashing(database_url, tmp_path / "acks")


async def recovered(url: str) -> list[inspection.TurnLine]:
    """Do what a restarted bot does first, check the database, and return every turn."""
    database = Database(url)
    now = datetime.now(UTC)
    async with database.write() as session:
        await queries.interrupt_dead_turns(session, now=now)
    async with database.read() as session:
        assert await inspection.integrity_problems(session) == ()
        assert await inspection.orphans(session) == {}
        assert await recovery.dead_turns(session, now=now) == ()
        lines = await inspection.dialog_lines(session, limit=10_000)
        turns = [turn for line in lines for turn in await inspection.turn_lines(session, dialog_id=line.dialog_id)]
        open_keys = [(line.guild_id, line.user_id, line.channel_id) for line in lines if line.ended_at is None]
    await database.close()
    assert len(open_keys) == len(set(open_keys))
    return turns


def assert_nothing_lost(turns: list[inspection.TurnLine], acknowledged: set[int]) -> None:
    replies = [turn.reply for turn in turns if turn.status == "done"]
    assert len(replies) == len(set(replies)), "a reply is stored twice"
    assert {f"a {number}" for number in acknowledged} <= set(replies)
    assert all((turn.reply is not None) == (turn.status == "done") for turn in turns)
    assert all(turn.status != "pending" for turn in turns)


class TestCrashPoints:
    async def test_fault_01_after_begin_turn(self, crashing: Crashing) -> None:
        crashing.run_worker(seed=1, crash_at="after_begin_turn")
        turns = await recovered(crashing.url)
        assert [turn.status for turn in turns].count("interrupted") >= 1
        assert {turn.status for turn in turns} == {"interrupted"}
        database = Database(crashing.url)
        now = datetime.now(UTC)
        async with database.read() as session:
            waiting = await unfinished_deliveries.unfinished_deliveries(session, now=now)
            assert await unfinished_deliveries.unfinished_deliveries(session, now=now + timedelta(hours=25)) == ()
        assert len(waiting) == len(turns)
        assert all((one.place.reply_token or "").startswith("token-") for one in waiting)
        async with database.write() as session:
            for one in waiting:
                await delivery_messages.messages_shown(session, delivery_id=one.delivery_id, shown=(), done=True)
        async with database.read() as session:
            assert await unfinished_deliveries.unfinished_deliveries(session, now=now) == ()
            for user in range(8):
                key = DialogKey(100 + user % 3, user)
                assert await queries.history(session, key=key, limit=10) == ()
        await database.close()

    async def test_before_finish(self, crashing: Crashing) -> None:
        crashing.run_worker(seed=2, crash_at="before_finish")
        turns = await recovered(crashing.url)
        assert {turn.status for turn in turns} == {"interrupted"}

    async def test_fault_02_after_finish(self, crashing: Crashing) -> None:
        crashing.run_worker(seed=3, crash_at="after_finish")
        turns = await recovered(crashing.url)
        done = [turn for turn in turns if turn.status == "done"]
        assert len(done) >= 1
        assert crashing.acknowledged() == set()
        assert_nothing_lost(turns, set())

    async def test_a_pending_turn_of_a_running_process_is_left_alone(self, database: Database) -> None:
        now = datetime.now(UTC)
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=DialogKey(1, 2), text="hi", limit=10, now=now)
        other = Database(database.url)
        async with other.write() as session:
            assert await queries.interrupt_dead_turns(session, now=now) == 0
            assert await queries.interrupt_dead_turns(session, now=now + timedelta(minutes=14)) == 0
            assert await queries.interrupt_dead_turns(session, now=now + timedelta(minutes=16)) == 1
        await other.close()
        assert turn.turn_id > 0


async def kill_at_random(crashing: Crashing, *, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(rounds):
        crashing.run_worker(
            seed=rng.getrandbits(32), seconds=rng.uniform(0.02, 0.4), until_acknowledged=number == rounds - 1
        )
        turns = await recovered(crashing.url)
        assert_nothing_lost(turns, crashing.acknowledged())
    assert crashing.acknowledged()
    check_revision(crashing.url)


class TestRandomKills:
    async def test_fault_03_nothing_acknowledged_is_lost(self, crashing: Crashing) -> None:
        await kill_at_random(crashing, rounds=5, seed=20261123)

    @pytest.mark.long
    @pytest.mark.timeout(1800)
    async def test_fault_03_two_hundred_rounds(self, crashing: Crashing) -> None:
        await kill_at_random(crashing, rounds=200, seed=4711)
