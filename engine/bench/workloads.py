"""What each workload of the command line sends, and how many rows its definition allows. Knows clients, not engines."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from engine.bench import trace
from engine.bench.drive import (
    Client,
    RunRecord,
    Sampling,
    closed_loop,
    come_back,
    quantile,
    send_all,
    send_in_turn,
    send_request,
    tell,
)
from engine.bench.trace import SEED, PromptRequest, RollingChat, random_ids

GREEDY, CHAT_SAMPLING = Sampling(), Sampling(0.6, 0.9)
OLD_ROWS: Final = 32
TTFT_REQUESTS: Final = 12
MEMBERS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Drive = Callable[[Client, int, float], Coroutine[Any, Any, RunRecord]]


async def nothing(client: Client, vocab: int, scale: float) -> None:
    """A preparation that does nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """`drive(client, vocabulary, scale)` sends the requests; `rows`: the most that may run at a time, None: any.

    `prepare` is called before, and not timed.
    """

    drive: Drive
    rows: int | None = OLD_ROWS
    prepare: Callable[[Client, int, float], Coroutine[Any, Any, None]] = nothing


async def _all(
    make: Callable[[int, float], list[PromptRequest]], sampling: Sampling, client: Client, vocab: int, scale: float
) -> RunRecord:
    return await send_all(client, make(vocab, scale), sampling)


async def _chat(client: Client, vocab: int, scale: float) -> RunRecord:
    return await closed_loop(client, trace.chat(scale, vocab), GREEDY)


async def _members(users: int, client: Client, vocab: int, scale: float) -> RunRecord:
    """M1 to M256: `users` at once, as in W3, three turns each."""
    turns = 3 if scale == 1.0 else 1
    return await closed_loop(client, trace.ChatWorkload(users=users, turns=turns, vocab=vocab), GREEDY)


async def _long_personas(client: Client, vocab: int, scale: float) -> RunRecord:
    """W3p: 32 users of 4 personas of 2,048 tokens, otherwise as W3."""
    turns = 6 if scale == 1.0 else 2
    return await closed_loop(
        client, trace.ChatWorkload(users=32, turns=turns, system=max(16, int(2048 * scale)), vocab=vocab), GREEDY
    )


async def _canned(extra_tokens: int, client: Client, vocab: int, scale: float) -> RunRecord:
    return await closed_loop(client, trace.CannedChat(extra_tokens, vocab=vocab), GREEDY)


async def _rolling(trim_step: int, client: Client, vocab: int, scale: float) -> RunRecord:
    workload = RollingChat(turns=max(3, int(30 * scale)), trim_step=trim_step, vocab=vocab)
    return await closed_loop(client, workload, GREEDY)


async def _first_tokens(length: int, cached: int, client: Client, vocab: int, scale: float) -> RunRecord:
    """T1, T2, T3: one request after another on an idle engine; `cached` tokens of each prompt were sent before."""
    rng = random.Random(f"{SEED}-ttft-{length}-{cached}")
    record = RunRecord(time.perf_counter())
    shared = random_ids(rng, max(1, int(cached * scale)), vocab) if cached else []
    if shared:
        await send_request(client, RunRecord(0.0), shared, 1, GREEDY, "u", "g")
    prompts = [[*shared, *random_ids(rng, max(1, int(length * scale)), vocab)] for _ in range(TTFT_REQUESTS)]
    await send_in_turn(client, record, [PromptRequest(prompt, 2) for prompt in prompts], GREEDY)
    return record


async def _tell(name: str, client: Client, vocab: int, scale: float) -> None:
    await tell(client, trace.returning(name, scale, vocab), GREEDY)


async def _come_back(name: str, client: Client, vocab: int, scale: float) -> RunRecord:
    return await come_back(client, trace.returning(name, scale, vocab), GREEDY)


async def _newcomers(client: Client, vocab: int, scale: float) -> RunRecord:
    """16 members read replies of 600 tokens when 100 others arrive within a second, as W3's in their first turn."""
    rng = random.Random(f"{SEED}-newcomers")
    readers, others = RunRecord(time.perf_counter()), RunRecord(time.perf_counter())
    personas = [random_ids(rng, max(8, int(256 * scale)), vocab) for _ in range(4)]

    async def read(number: int) -> None:
        prompt = random_ids(rng, max(8, int(512 * scale)), vocab)
        length = max(60, int(600 * scale))
        await send_request(client, readers, prompt, length, GREEDY, f"r{number}", f"g{number % 4}")

    async def arrive(number: int) -> None:
        prompt = [*personas[number % 4], *random_ids(rng, 40, vocab)]
        await asyncio.sleep(1.0 + rng.random())
        await send_request(client, others, prompt, max(10, int(100 * scale)), GREEDY, f"u{number}", f"g{number % 4}")

    await asyncio.gather(*(read(number) for number in range(16)), *(arrive(number) for number in range(100)))
    arrived = min((request.sent_at for request in others.requests), default=0.0)
    idle = sorted(gap for request in readers.requests for gap in request.gaps_before(arrived))
    busy = sorted(gap for request in readers.requests for gap in request.gaps_after(arrived))
    readers.requests += others.requests
    readers.facts = {
        "idle_gap_p95_ms": round(1000 * quantile(idle, 0.95), 2),
        "busy_gap_p95_ms": round(1000 * quantile(busy, 0.95), 2),
        "newcomers_ttft_p95_ms": round(1000 * quantile(sorted(r.ttft for r in others.requests), 0.95), 1),
    }
    return readers


_W3: Final = Workload(_chat)
WORKLOADS: Final[dict[str, Workload]] = {
    "W1": Workload(partial(_all, trace.w1, GREEDY)),
    "W1s": Workload(partial(_all, trace.w1, CHAT_SAMPLING)),
    "W2": Workload(partial(_all, trace.w2, GREEDY)),
    "W2s": Workload(partial(_all, trace.w2, CHAT_SAMPLING)),
    "W3": _W3,
    "W3u": replace(_W3, rows=None),
    "W3p": Workload(_long_personas, rows=None),
    "W3n": Workload(_newcomers, rows=None),
    "W4": Workload(partial(_all, trace.w4, GREEDY)),
    "W5": Workload(partial(_rolling, 1)),
    "W5t": Workload(partial(_rolling, 5)),
    "W6": Workload(partial(_canned, 0)),
    "W6b": Workload(partial(_canned, 58)),
    **{name: Workload(partial(_come_back, name), None, partial(_tell, name)) for name in ("W7", "W7x")},
    **{f"M{users}": Workload(partial(_members, users), rows=None) for users in MEMBERS},
    "T1": Workload(partial(_first_tokens, 512, 0), rows=None),
    "T2": Workload(partial(_first_tokens, 40, 2000), rows=None),
    "T3": Workload(partial(_first_tokens, 4000, 0), rows=None),
}


def rows_of(names: Sequence[str]) -> int | None:
    """The rows that all these workloads run with. Raises ValueError for names that do not go together."""
    rows = {WORKLOADS[name].rows for name in names}
    if len(rows) > 1:
        raise ValueError("workloads with 32 rows and workloads with any number of rows are two runs")
    return rows.pop() if rows else OLD_ROWS
