"""`python -m engine.bench W10.o`: what verifying drafts costs, and gives at most, on a GPU with random weights.

The drafts are the ids of the same requests, replayed: W1 with 12 of them in a step, W2 with 3 for each of its 32 rows.
Prompts are in the cache, so that what is measured is decoding. With 16-bit numbers a token's logits round differently
in steps of one token and of several; so the ids to replay are taken from a run that verifies, repeated until it gives
the ids that it was told. `W10.n` samples text in which nothing repeats, with the n-gram index and without drafts.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from engine.bench import trace
from engine.bench.drive import Sampling
from engine.bench.local import PreparedEngine
from engine.bench.trace import PromptRequest
from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.core.engine_core import SamplingParams
from engine.scheduler.drafts.drafter import ngrams_of
from engine.scheduler.drafts.limits import NO_DRAFTS
from engine.scheduler.drafts.source import DraftSource
from engine.scheduler.request import Request

MAX_REPLAYS: Final = 40  # until a run gives the ids that it was told
GREEDY: Final = Sampling()
SAMPLINGS: Final = {"greedy": GREEDY, "sampled": Sampling(0.6, 0.9)}
NEVER_REPEATS: Final = Sampling(1.5, 1.0)


class Replay:
    """Expects the ids of an earlier run, whether or not they have come true so far."""

    def __init__(self, request: Request, reply: list[int]) -> None:
        self._token_ids, self._num_prompt_tokens, self._reply = request.token_ids, request.num_prompt_tokens, reply

    @property
    def num_unread(self) -> int:
        """See `DraftSource`."""
        return 0

    def update(self, max_tokens: int) -> bool:
        """See `DraftSource`."""
        return bool(self._reply)

    def rate(self, index: int) -> float:
        """See `DraftSource`."""
        return 0.99

    def continuation(self, count: int) -> tuple[int, ...]:
        """See `DraftSource`."""
        first = len(self._token_ids) - self._num_prompt_tokens
        return tuple([*self._reply[first : first + count], *[0] * count][:count])


class ToldEngine(PreparedEngine):
    """An engine whose drafts can be chosen while no request runs."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self._limits = NO_DRAFTS  # those of the runner, once they have been changed

    def tell(self, max_drafts: int, replies: dict[tuple[int, ...], list[int]] | None = None) -> None:
        """Up to `max_drafts` in a row's step: of `replies` by prompt, or of n-grams; 0: none."""
        if self._scheduler is None:
            raise RuntimeError("the engine has no scheduler")
        drafter = self._scheduler.drafter
        self._limits = limits = drafter.limits if drafter.limits.max_drafts else self._limits
        if replies is not None:
            limits = replace(limits, cost=0.001, first_cost=0.0)
        drafter.limits = replace(limits, max_drafts=max_drafts)

        def replay(request: Request) -> DraftSource:
            prompt = tuple(request.token_ids[: request.num_prompt_tokens])
            return Replay(request, (replies or {}).get(prompt, []))

        drafter.open_source = ngrams_of if replies is None else replay


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave: the ids of each request, and the time between their first and last ones."""

    ids: list[list[int]]
    seconds: float
    drafted: int
    accepted: int
    steps: int

    @property
    def facts(self) -> dict[str, object]:
        """As a line of docs/bench has them."""
        tokens = sum(len(ids) - 1 for ids in self.ids)
        return {
            "output_tok_s": round(tokens / self.seconds, 1), "ms_per_step": round(1000 * self.seconds / self.steps, 3),
            "steps": self.steps, "drafted": self.drafted, "accepted": self.accepted,
        }  # fmt: skip


def lines(config: EngineConfig, checkpoint: Checkpoint, runs: int, scale: float) -> Iterator[dict[str, object]]:
    """One line for each way of drafting, number of rows and sampling."""
    engine = ToldEngine.start(replace(config, speculate="ngram"), checkpoint)
    vocab = checkpoint.spec.vocab_size
    try:
        engine.wait_until_prepared()
        for name, requests, drafts in (("1", trace.w1(vocab, scale), 12), ("32", trace.w2(vocab, scale), 3)):
            prompts = [tuple(request.prompt) for request in requests]
            for sampling, params in SAMPLINGS.items():
                engine.tell(0)
                off = [_run(engine, requests, params) for _ in range(runs + 1)][1:]
                told, replays = off[0].ids, 0
                while replays < MAX_REPLAYS:
                    engine.tell(drafts, dict(zip(prompts, told, strict=True)))
                    run = _run(engine, requests, params)
                    replays += 1
                    if run.ids == told:
                        break
                    told = run.ids
                replayed = [_run(engine, requests, params) for _ in range(runs)]
                equal = sum(ids == others for ids, others in zip(off[0].ids, replayed[0].ids, strict=True))
                facts = {"sampling": sampling, "rows": len(requests), "max_drafts": drafts}
                yield {"workload": f"W10.off-{name}", **facts, **_median(off).facts}
                yield {
                    "workload": "W10.o" if len(requests) == 1 else f"W10.o-{name}", **facts, **_median(replayed).facts,
                    "replays": replays, "replies_equal_to_off": equal,
                }  # fmt: skip
            modes: dict[str, list[Run]] = {"off": [], "ngram": []}
            for _ in range(runs + 1):
                for mode, found in modes.items():
                    engine.tell(0 if mode == "off" else drafts)
                    found.append(_run(engine, requests, NEVER_REPEATS))
            for mode, found in modes.items():
                yield {"workload": f"W10.n-{name}", "speculate": mode, **_median(found[1:]).facts}
    finally:
        engine.close()


def _median(runs: list[Run]) -> Run:
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def _run(engine: ToldEngine, requests: list[PromptRequest], sampling: Sampling) -> Run:
    before = engine.stats()
    replies = asyncio.run(_send(engine, requests, sampling))
    after = engine.stats()
    return Run(
        [ids for ids, _, _ in replies],
        max(end for _, _, end in replies) - min(start for _, start, _ in replies),
        after.drafted_tokens - before.drafted_tokens,
        after.accepted_tokens - before.accepted_tokens,
        after.steps - before.steps,
    )


async def _send(
    engine: ToldEngine, requests: list[PromptRequest], sampling: Sampling
) -> list[tuple[list[int], float, float]]:
    """The ids of each request, whose seed is its number, and the times of the first and the last one."""

    async def send(number: int, request: PromptRequest) -> tuple[list[int], float, float]:
        params = SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=request.output_len, ignore_eos=True,
            seed=number,
        )  # fmt: skip
        first = 0.0
        found: list[int] = []
        async for ids in engine.submit(request.prompt, params, client=f"u{number}", tenant=f"g{number % 4}"):
            first = first or time.perf_counter()
            found += ids
        return found, first, time.perf_counter()

    return await asyncio.gather(*(send(number, request) for number, request in enumerate(requests)))
