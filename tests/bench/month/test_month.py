"""The benchmark of a month finds what it looks for; and a very short month has nothing to find."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import time_machine

from tests.bench.month.acts import ANSWERED, Question
from tests.bench.month.check import faults
from tests.bench.month.clock import DAY
from tests.bench.month.verdict import Bound, judge, verdicts
from tests.discord.harness import World, world
from tests.fakes.engine import Script

SETTINGS = {"RETENTION_DAYS": "7", "SESSION_TTL": "1d"}
SHORT = "--guilds 12 --members 120 --days 3 --minutes 0.4 --messages 30 --guild-quota 6 --only-check".split()  # noqa: SIM905


def days(rss: Callable[[int], float], *, runs: Callable[[int], int] = lambda day: 1) -> list[dict[str, object]]:
    return [{"day": day, "run": runs(day), "rss_mib": rss(day), "rows": {"turns": 500}} for day in range(1, 31)]


def grown(found: list[dict[str, object]]) -> list[str]:
    return [each.name for each in verdicts(found, warm_up=10) if not each.flat]


def test_a_leak_is_seen_and_odd_days_and_the_warm_up_are_not() -> None:
    assert grown(days(lambda day: 170 + 2 * day)) == ["rss_mib"]
    assert grown(days(lambda day: 170 + 2 * min(day, 9))) == []
    assert grown(days(lambda day: 300 if day in (14, 29) else 170)) == []


def test_memory_is_that_of_one_process() -> None:
    """A restart frees what leaked: days before and after it are not compared, and a leak within one run counts."""
    sawtooth = days(lambda day: 170 + 3 * (day if day < 28 else 0), runs=lambda day: 1 if day < 28 else 2)
    assert grown(sawtooth) == ["rss_mib"]
    assert grown(days(lambda day: 170 if day < 28 else 300, runs=lambda day: 1 if day < 28 else 2)) == []


def test_a_table_that_nothing_deletes_is_seen() -> None:
    found = days(lambda day: 170)
    for day in found:
        day["rows"] = {"turns": 500, "forgotten": 50 * int(str(day["day"]))}
    assert grown(found) == ["rows of forgotten"]
    assert judge("rows of forgotten", [(day, 50.0 * day) for day in range(10, 31)], Bound(0.1, 0)).growth == 1000


def test_the_slope_of_a_short_month_is_that_of_what_there_is() -> None:
    assert judge("rss_mib", [(1, 170.0)], Bound(0.05, 0)).flat


async def asked(here: World, name: str) -> Question:
    here.engine.default = lambda request: Script(deltas=(f"Answer to {name}: that is all.",))
    guild, ann = await here.member()
    found = await here.ask(guild, ann, f"Tell me of {name}")
    return Question(name, found.id, guild.id, time.time(), "chat", ANSWERED)


async def test_the_check_finds_what_was_lost_changed_or_is_too_old(sqlite_url: str, tmp_path: Path) -> None:
    async with world(sqlite_url, tmp_path) as here:
        kept = await asked(here, "q1")
        changed = await asked(here, "q2")
        lost = Question("q3", 3, kept.guild_id, time.time(), "chat", ANSWERED)
        assert await here.bot.stop() == 0
        assert await faults(sqlite_url, [kept, changed], left=set(), settings=SETTINGS) == []
        changed.name = "q22"
        found = await faults(sqlite_url, [kept, changed, lost], left=set(), settings=SETTINGS)
        assert found == ["q22 is stored with another answer", "q3 was answered and is not stored"]
        with time_machine.travel(time.time() + 20 * DAY):
            found = await faults(sqlite_url, [], left=set(), settings=SETTINGS)
        assert found[0] == "a cleanup would find 2 ended_dialogs"
        assert found[-1].startswith("2 turns are older than ")


@pytest.mark.long
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_short_month_loses_nothing_and_keeps_nothing_too_long(
    database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    from tests.bench.month.__main__ import main

    assert main([*SHORT, "--database", database]) == 0, "".join(capfd.readouterr())[-5000:]
    assert not time_machine.escape_hatch.is_travelling()
