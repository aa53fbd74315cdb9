"""Sends a workload's requests to an engine and notes when each token came. Knows clients, not engines.

output tok/s: all output tokens / (last token - start). TTFT: first token - sent, waiting included. Gap: time between
two deliveries of one request, split evenly over the tokens that came together.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.bench.trace import Ask, Chat


@dataclass(frozen=True, slots=True)
class Sampling:
    temperature: float = 0.0
    top_p: float = 1.0


class Client(Protocol):
    def stream(
        self, prompt: list[int], output: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        """Exactly `output` token ids, as they come."""
        ...


@dataclass(slots=True)
class Sent:
    at: float
    prompt: int
    times: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Record:
    """All requests of one run."""

    start: float
    sent: list[Sent] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        times = [request.times for request in self.sent]
        makespan = max(t[-1] for t in times) - self.start
        outputs = sum(len(request.ids) for request in self.sent)
        first = sorted(request.times[0] - request.at for request in self.sent)
        gaps = sorted(gap for request in self.sent for gap in request.gaps)
        return {
            "makespan_s": round(makespan, 4),
            "output_tokens": outputs,
            "output_tok_s": round(outputs / makespan, 1),
            "ttft_p50_ms": round(1000 * quantile(first, 0.5), 1),
            "ttft_p95_ms": round(1000 * quantile(first, 0.95), 1),
            "gap_p50_ms": round(1000 * quantile(gaps, 0.5), 2),
            "gap_p95_ms": round(1000 * quantile(gaps, 0.95), 2),
            "gap_max_ms": round(1000 * gaps[-1], 1) if gaps else 0.0,
        }


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def once(
    client: Client, record: Record, prompt: list[int], output: int, sampling: Sampling, name: str, tenant: str
) -> list[int]:
    sent = Sent(time.perf_counter(), len(prompt))
    record.sent.append(sent)
    async for ids in client.stream(prompt, output, sampling, client=name, tenant=tenant):
        now = time.perf_counter()
        if sent.times:
            sent.gaps += [(now - sent.times[-1]) / len(ids)] * len(ids)
        sent.times += [now] * len(ids)
        sent.ids += ids
    if len(sent.ids) != output:
        raise RuntimeError(f"{len(sent.ids)} tokens came where {output} were asked for")
    return sent.ids


async def at_once(client: Client, asks: Sequence[Ask], sampling: Sampling) -> Record:
    """W1, W2, W4: everything is sent at the start."""
    record = Record(time.perf_counter())
    work = (
        once(client, record, ask.prompt, ask.output, sampling, f"u{number}", f"g{number % 4}")
        for number, ask in enumerate(asks)
    )
    await asyncio.gather(*work)
    return record


async def closed_loop(client: Client, trace: Chat, sampling: Sampling) -> Record:
    """W3, W5: each member sends the next message when the reply is complete. Members of a guild share its persona."""
    record = Record(time.perf_counter())

    async def member(user: int) -> None:
        more = True
        while more:
            reply = await once(
                client, record, trace.prompt(user), trace.reply_length, sampling, f"u{user}",
                f"g{trace.persona_of[user]}",
            )  # fmt: skip
            more = trace.reply(user, reply)

    await asyncio.gather(*(member(user) for user in range(trace.users)))
    return record


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated runs."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
