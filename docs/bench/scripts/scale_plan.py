"""A plan on paper for many guilds: rates, shards, processes, database, replicas; and a simulation of the replicas.

    python docs/bench/scripts/scale_plan.py [--guilds 100000] [--messages 12] [--replicas N] [--json]

What members do is assumed; what each thing takes is measured (docs/performance.md, docs/performance-discord.md and
docs/database-performance.md) unless a line here says otherwise. The simulation draws messages for some minutes of the
busiest hour, sends each to its guild's replica with the bot's own hash, and runs each replica's batch step by step with
the measured times of a step. One replica is taken away in the middle. Needs nothing but Python and this repository.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import asdict, dataclass, field

from bot.engine_client.replicas.rendezvous import preferred_order

# Assumed of members.
MESSAGES_A_GUILD_A_DAY = 12.0
"""On the average; a few guilds have most of them (ZIPF)."""
ZIPF = 0.9
PEAK = 2.5
"""The busiest hour of a day against its average."""
REPLY_TOKENS, PROMPT_NEW_TOKENS, PROMPT_COLD_TOKENS = 150, 60, 900
"""Tokens of a reply, and of a prompt where the replica has the dialog cached and where it has not."""
EVENTS_A_GUILD_A_DAY, EVENT_MS = 500.0, 0.3
"""Messages of all members, of which Discord tells the bot, and the time that each takes it: both assumed."""
MENTIONS = 0.6
"""Share of messages that are mentions: their edits count towards Discord's global limit, those of /chat do not."""

# Measured.
STEP_MS = {1: 3.65, 8: 4.64, 16: 5.19, 32: 6.57, 48: 8.72, 64: 9.91, 96: 14.0, 128: 17.0, 192: 23.4, 256: 29.8}
"""One H200, 7B in bf16, context 600 (docs/performance.md)."""
PREFILL_TOKENS_A_SECOND = 36_000.0
"""From a first token after 110.6 ms with 4,000 new tokens (docs/performance.md)."""
ROWS = 192
CPU_MS_A_MESSAGE = 28.8
"""docs/database-performance.md."""
BEGIN_MS, FINISH_MS = 14.18, 9.93
"""p50 at a million turns on Postgres (docs/database-performance.md)."""
EDITS_MENTION, EDITS_CHAT = 7.9, 9.7
"""docs/performance-discord.md."""

# Discord's.
GUILDS_A_SHARD = 1000
"""What Discord recommends; it insists on one for every 2,500."""
GLOBAL_REQUESTS = 50.0
IDENTIFY_SECONDS = 5.0

# Chosen.
SHARDS_A_PROCESS = 16
CPU_SHARE = 0.5
"""Of one core for each process of the bot, at the peak."""
ROWS_SHARE = 0.6
"""Of a replica's rows that are in use at the peak: the rest takes a failed replica's guilds and chance."""
BYTES_A_TURN = 2_500
"""Of a row of `turns` with its share of indexes, as text of about 200 and 600 characters is stored."""
RETENTION_DAYS = 30


@dataclass
class Plan:
    """What it takes."""

    guilds: int
    messages_a_day: float
    messages_a_second_peak: float
    running_replies_peak: float
    replicas: int
    shards: int
    concurrency_of_identify: int
    minutes_until_all_sessions_are_open: float
    processes: int
    gateway_events_a_second_peak: float
    processor_cores_of_the_bot_peak: float
    transactions_a_second_peak: float
    connections_busy_peak: float
    connections: int
    turns_kept: float
    gigabytes_kept: float
    turns_a_partition: float
    requests_a_second_peak: float
    global_limit: float
    notes: list[str] = field(default_factory=list)


def step_ms(rows: int) -> float:
    """The time of a step with `rows` rows, interpolated between the measured steps."""
    known = sorted(STEP_MS)
    if rows <= known[0]:
        return STEP_MS[known[0]]
    if rows >= known[-1]:
        return STEP_MS[known[-1]] * rows / known[-1]
    above = bisect_right(known, rows)
    low, high = known[above - 1], known[above]
    return STEP_MS[low] + (STEP_MS[high] - STEP_MS[low]) * (rows - low) / (high - low)


def running_at(rate: float, prompt_tokens: float = PROMPT_NEW_TOKENS) -> float:
    """The number of replies that one replica writes at once at this rate of messages (Little's law).

    While prompts are computed, no reply goes on.
    """
    decoding = 1 - rate * prompt_tokens / PREFILL_TOKENS_A_SECOND
    if decoding <= 0:
        return math.inf
    rows = 1.0
    for _ in range(500):
        rows = rate * REPLY_TOKENS * step_ms(max(1, round(rows))) / 1000 / decoding
        if rows > ROWS:
            return math.inf
    return rows


def replicas_for(rate: float) -> int:
    """The fewest replicas that use no more than ROWS_SHARE of their rows, and have enough with one of them gone.

    The prompts of that one's guilds are then computed anew, in the worst case with each of their messages.
    """
    for count in range(2, 10_000):
        with_one_gone = PROMPT_NEW_TOKENS + (PROMPT_COLD_TOKENS - PROMPT_NEW_TOKENS) / count
        if running_at(rate / count) <= ROWS * ROWS_SHARE and running_at(rate / (count - 1), with_one_gone) <= ROWS:
            return count
    raise ValueError("too many replicas")


def plan(guilds: int, messages_a_guild: float = MESSAGES_A_GUILD_A_DAY) -> Plan:
    """The plan for `guilds` guilds with a number of messages a day each."""
    a_day = guilds * messages_a_guild
    peak = a_day / 86_400 * PEAK
    replicas = replicas_for(peak)
    shards = 2 ** math.ceil(math.log2(max(1.0, guilds / GUILDS_A_SHARD)))
    concurrency = 16 if guilds >= 150_000 else 1
    busy = peak * (BEGIN_MS + FINISH_MS) / 1000
    events = guilds * EVENTS_A_GUILD_A_DAY / 86_400 * PEAK
    cores = (peak * CPU_MS_A_MESSAGE + events * EVENT_MS) / 1000
    processes = max(2, math.ceil(cores / CPU_SHARE), math.ceil(shards / SHARDS_A_PROCESS))
    processes = min(shards, 2 ** math.ceil(math.log2(processes)))
    requests = peak * MENTIONS * (1 + EDITS_MENTION)
    result = Plan(
        guilds=guilds,
        messages_a_day=a_day,
        messages_a_second_peak=round(peak, 1),
        running_replies_peak=round(replicas * running_at(peak / replicas), 1),
        replicas=replicas,
        shards=shards,
        concurrency_of_identify=concurrency,
        minutes_until_all_sessions_are_open=round(shards * IDENTIFY_SECONDS / concurrency / 60, 1),
        processes=processes,
        gateway_events_a_second_peak=round(events, 1),
        processor_cores_of_the_bot_peak=round(cores, 2),
        transactions_a_second_peak=round(2 * peak, 1),
        connections_busy_peak=round(busy, 2),
        connections=processes * 9,
        turns_kept=a_day * RETENTION_DAYS,
        gigabytes_kept=round(a_day * RETENTION_DAYS * BYTES_A_TURN / 1e9, 1),
        turns_a_partition=a_day * 30.4,
        requests_a_second_peak=round(requests, 1),
        global_limit=GLOBAL_REQUESTS,
    )
    if requests > GLOBAL_REQUESTS:
        result.notes.append(
            f"replies to mentions would need {requests:.0f} requests a second with Discord's {GLOBAL_REQUESTS:.0f}: "
            "ask Discord for a higher limit; until then the bot spaces its edits, final texts first"
        )
    if shards * IDENTIFY_SECONDS / concurrency > 300:
        result.notes.append("after a restart of everything the last guilds wait for minutes: restart processes in turn")
    return result


@dataclass
class Replica:
    """One engine: a batch that makes one token a row and step, and the prompts that are computed before."""

    now: float = 0.0
    steps: int = 0
    waiting: deque[tuple[float, bool]] = field(default_factory=deque)
    ends: list[int] = field(default_factory=list)

    def run(self, until: float, first_tokens: list[float], lengths: random.Random) -> None:
        """Run to this moment; each first token's wait goes to the list."""
        while self.now < until:
            while self.ends and self.ends[0] <= self.steps:
                heapq.heappop(self.ends)
            prefill = 0.0
            while self.waiting and len(self.ends) < ROWS and self.waiting[0][0] <= self.now and prefill < 0.02:
                came, is_cold = self.waiting.popleft()
                prefill += (PROMPT_COLD_TOKENS if is_cold else PROMPT_NEW_TOKENS) / PREFILL_TOKENS_A_SECOND
                tokens = max(8, round(lengths.expovariate(1 / REPLY_TOKENS)))
                heapq.heappush(self.ends, self.steps + tokens)
                first_tokens.append(self.now + prefill + step_ms(len(self.ends)) / 1000 - came)
            if not self.ends:
                self.now = min(until, max(self.now + 1e-6, self.waiting[0][0])) if self.waiting else until
                continue
            self.now += step_ms(len(self.ends)) / 1000 + prefill
            self.steps += 1


def simulate(of: Plan, *, seconds: float, seed: int = 7) -> dict[str, object]:
    """The first seconds of the busiest hour; after half of them one replica is gone for good."""
    rng = random.Random(seed)
    names = [f"replica-{number}:8000" for number in range(of.replicas)]
    weights = [1 / (rank + 20) ** ZIPF for rank in range(of.guilds)]
    orders: dict[int, list[int]] = {}
    replicas = [Replica() for _ in names]
    # A guild's dialogs are warm where it belongs: it was there for hours.
    warm: set[tuple[int, int]] = set()
    before: list[float] = []
    after: list[float] = []
    load: Counter[int] = Counter()
    moved = cold = 0
    now, gone_at, slice_s = 0.0, seconds / 2, 0.25
    while now < seconds:
        count = _poisson(rng, of.messages_a_second_peak * slice_s)
        is_gone = now >= gone_at
        for guild in rng.choices(range(of.guilds), weights, k=count):
            order = orders.setdefault(guild, preferred_order(str(guild), names))
            home = order[0] if not (is_gone and order[0] == 0) else order[1]
            is_cold = home != order[0] and (guild, home) not in warm
            warm.add((guild, home))
            moved, cold = moved + (home != order[0]), cold + is_cold
            load[home] += not is_gone
            replicas[home].waiting.append((now + rng.random() * slice_s, is_cold))
        for place, replica in enumerate(replicas):
            if not (is_gone and place == 0):
                replica.waiting = deque(sorted(replica.waiting))
                replica.run(now + slice_s, after if is_gone else before, rng)
        now += slice_s
    mean = sum(load.values()) / len(replicas)
    return {
        "simulated_s": seconds,
        "busiest_replica_against_mean": round(max(load.values()) / mean, 2),
        "first_token_ms_p50": _percentile(before, 0.5),
        "first_token_ms_p99": _percentile(before, 0.99),
        "one_replica_gone_first_token_ms_p50": _percentile(after, 0.5),
        "one_replica_gone_first_token_ms_p99": _percentile(after, 0.99),
        "messages_elsewhere": moved,
        "of_them_with_a_cold_cache": cold,
    }


def _percentile(values: list[float], share: float) -> int:
    values = sorted(values)
    return round(values[min(len(values) - 1, int(len(values) * share))] * 1000) if values else 0


def _poisson(rng: random.Random, mean: float) -> int:
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count, product = count + 1, product * rng.random()
    return count


def main() -> None:
    """Print the plan and the simulation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guilds", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--messages", type=float, default=MESSAGES_A_GUILD_A_DAY, help="a day, of each guild")
    parser.add_argument("--replicas", type=int, help="simulate this many instead of the plan's")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the busiest hour, to simulate")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for guilds in options.guilds:
        planned = plan(guilds, options.messages)
        if options.replicas:
            planned.replicas = options.replicas
        found = {**asdict(planned), "simulation": simulate(planned, seconds=options.seconds)}
        if options.json:
            sys.stdout.write(json.dumps(found) + "\n")
            continue
        for name, value in found.items():
            sys.stdout.write(f"{name:>38}  {value:,}\n" if isinstance(value, int | float) else f"{name:>38}  {value}\n")
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
