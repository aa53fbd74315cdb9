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

from engine.bench.trace import ChatWorkload, PromptRequest


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
class RequestTiming:
    sent_at: float
    num_prompt_tokens: int
    token_times: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class RunRecord:
    """All requests of one run."""

    started_at: float
    requests: list[RequestTiming] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        times = [request.token_times for request in self.requests]
        makespan = max(t[-1] for t in times) - self.started_at
        outputs = sum(len(request.token_ids) for request in self.requests)
        first = sorted(request.token_times[0] - request.sent_at for request in self.requests)
        gaps = sorted(gap for request in self.requests for gap in request.gaps)
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


async def send_request(
    client: Client, record: RunRecord, prompt: list[int], output: int, sampling: Sampling, name: str, tenant: str
) -> list[int]:
    sent = RequestTiming(time.perf_counter(), len(prompt))
    record.requests.append(sent)
    async for ids in client.stream(prompt, output, sampling, client=name, tenant=tenant):
        now = time.perf_counter()
        if sent.token_times:
            sent.gaps += [(now - sent.token_times[-1]) / len(ids)] * len(ids)
        sent.token_times += [now] * len(ids)
        sent.token_ids += ids
    if len(sent.token_ids) != output:
        raise RuntimeError(f"{len(sent.token_ids)} tokens came where {output} were asked for")
    return sent.token_ids


async def send_all(client: Client, asks: Sequence[PromptRequest], sampling: Sampling) -> RunRecord:
    """W1, W2, W4: everything is sent at the start."""
    record = RunRecord(time.perf_counter())
    work = (
        send_request(client, record, ask.prompt, ask.output_len, sampling, f"u{number}", f"g{number % 4}")
        for number, ask in enumerate(asks)
    )
    await asyncio.gather(*work)
    return record


async def closed_loop(client: Client, trace: ChatWorkload, sampling: Sampling) -> RunRecord:
    """W3, W5: each member sends the next message when the reply is complete. Members of a guild share its persona."""
    record = RunRecord(time.perf_counter())

    async def member(user: int) -> None:
        more = True
        while more:
            reply = await send_request(
                client, record, trace.prompt(user), trace.reply_length, sampling, f"u{user}",
                f"g{trace.persona_of[user]}",
            )  # fmt: skip
            more = trace.reply(user, reply)

    await asyncio.gather(*(member(user) for user in range(trace.users)))
    return record


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated runs."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
