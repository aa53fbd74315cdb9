"""Sends a workload's requests to a client and records when each token arrives. Knows clients, not engines.

Output tok/s: all output tokens / makespan. Makespan: last token - start. TTFT: first token - sent, queueing included.
Inter-token gap: time between two deliveries of one request, divided by the tokens of the later one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.bench.trace import ChatWorkload, PromptRequest, ReturningMembers


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of a run; greedy by default."""

    temperature: float = 0.0
    top_p: float = 1.0


class Client(Protocol):
    """A way to reach an engine."""

    def stream(
        self, prompt: list[int], output_len: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        """Exactly `output_len` token ids, as they arrive; EOS is ignored."""
        ...


@dataclass(slots=True)
class RequestTiming:
    """One request: `token_times` has the arrival of each token, `gaps` the time before each but the first.

    All times are `time.perf_counter` seconds.
    """

    sent_at: float
    num_prompt_tokens: int
    token_times: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Seconds from sending to the first token."""
        return self.token_times[0] - self.sent_at

    def gaps_before(self, moment: float) -> list[float]:
        """The gaps that ended before a moment."""
        return [gap for gap, end in zip(self.gaps, self.token_times[1:], strict=False) if end < moment]

    def gaps_after(self, moment: float) -> list[float]:
        """The gaps that ended at a moment or later."""
        return [gap for gap, end in zip(self.gaps, self.token_times[1:], strict=False) if end >= moment]


@dataclass(slots=True)
class RunRecord:
    """All requests of one run."""

    started_at: float
    requests: list[RequestTiming] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)  # what only some workloads measure

    def summary(self) -> dict[str, float]:
        """The run's measurements, under the names that docs/bench/*.jsonl use."""
        makespan = max(request.token_times[-1] for request in self.requests) - self.started_at
        outputs = sum(len(request.token_ids) for request in self.requests)
        ttft = sorted(request.ttft for request in self.requests)
        gaps = sorted(gap for request in self.requests for gap in request.gaps)
        return {
            "makespan_s": round(makespan, 4),
            "output_tokens": outputs,
            "output_tok_s": round(outputs / makespan, 1),
            "ttft_p50_ms": round(1000 * quantile(ttft, 0.5), 1),
            "ttft_p95_ms": round(1000 * quantile(ttft, 0.95), 1),
            "gap_p50_ms": round(1000 * quantile(gaps, 0.5), 2),
            "gap_p95_ms": round(1000 * quantile(gaps, 0.95), 2),
            "gap_max_ms": round(1000 * gaps[-1], 1) if gaps else 0.0,
            **self.facts,
        }


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile (0 … 1) of sorted values; 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


async def send_request(
    client: Client, record: RunRecord, prompt: list[int], output_len: int, sampling: Sampling, name: str, tenant: str
) -> list[int]:
    """Send one request, add its timing to the record, and return its token ids; `name` is the client's id."""
    timing = RequestTiming(time.perf_counter(), len(prompt))
    record.requests.append(timing)
    async for ids in client.stream(prompt, output_len, sampling, client=name, tenant=tenant):
        now = time.perf_counter()
        if timing.token_times:
            timing.gaps += [(now - timing.token_times[-1]) / len(ids)] * len(ids)
        timing.token_times += [now] * len(ids)
        timing.token_ids += ids
    if len(timing.token_ids) != output_len:
        raise RuntimeError(f"{len(timing.token_ids)} tokens came where {output_len} were asked for")
    return timing.token_ids


async def send_all(client: Client, requests: Sequence[PromptRequest], sampling: Sampling) -> RunRecord:
    """W1, W2, W4: send all requests at the start, each as another client, in four tenants."""
    record = RunRecord(time.perf_counter())
    work = (
        send_request(client, record, request.prompt, request.output_len, sampling, f"u{number}", f"g{number % 4}")
        for number, request in enumerate(requests)
    )
    await asyncio.gather(*work)
    return record


async def send_in_turn(
    client: Client, record: RunRecord, requests: Sequence[PromptRequest], sampling: Sampling
) -> None:
    """Send each request when the one before has ended."""
    for request in requests:
        await send_request(client, record, request.prompt, request.output_len, sampling, "u", "g")


async def tell(client: Client, workload: ReturningMembers, sampling: Sampling) -> None:
    """The untimed part of W7: each member's pairs so far, with a reply of one token."""
    await _in_flight(client, workload, sampling, range(len(workload.order)), lambda member: (workload.told(member), 1))


async def come_back(client: Client, workload: ReturningMembers, sampling: Sampling) -> RunRecord:
    """W7: each member asks once, in the workload's order."""
    return await _in_flight(
        client, workload, sampling, workload.order, lambda member: (workload.prompt(member), workload.reply_length)
    )


async def _in_flight(
    client: Client,
    workload: ReturningMembers,
    sampling: Sampling,
    order: Iterable[int],
    request_of: Callable[[int], tuple[list[int], int]],
) -> RunRecord:
    """One request for each member, as many at a time as the workload says."""
    record, members = RunRecord(time.perf_counter()), iter(order)

    async def ask() -> None:
        for member in members:
            prompt, length = request_of(member)
            tenant = f"g{workload.tenant_of[member]}"
            await send_request(client, record, prompt, length, sampling, f"u{member}", tenant)

    await asyncio.gather(*(ask() for _ in range(workload.in_flight)))
    return record


async def closed_loop(client: Client, workload: ChatWorkload, sampling: Sampling) -> RunRecord:
    """W3, W5, W6: each user sends the next message when the reply is complete. A persona's users are one tenant."""
    record = RunRecord(time.perf_counter())

    async def chat(user: int) -> None:
        more = True
        while more:
            reply = await send_request(
                client, record, workload.prompt(user), workload.reply_length, sampling, f"u{user}",
                f"g{workload.persona_of[user]}",
            )  # fmt: skip
            more = workload.reply(user, reply)

    await asyncio.gather(*(chat(user) for user in range(workload.users)))
    return record
