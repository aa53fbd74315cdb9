"""Requests that draft on the GPU runner, a step ahead of their ids, get what plain torch gives them without drafts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

import pytest
import torch

from engine.config import EngineConfig
from engine.core.draft_model import RunnerDraftModel
from engine.logits_params import LogitsParams, TokenLogprobs
from engine.model.quantization import quantize_block
from engine.runner.base import AnyRunner
from engine.runner.cuda.batch.input_batch import BatchShape
from engine.runner.cuda.batch.verify_limits import VerifyLimits
from engine.runner.cuda.batch.verify_lists import verify_lists
from engine.runner.cuda.cuda_runner import CudaRunner
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.drafts.limits import NO_DRAFTS, DraftLimits
from engine.scheduler.drafts.ngram_index import NgramIndex
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan, Verification
from tests.engine.runner.cuda.test_cuda_runner import (
    FAMILIES,
    HEAD_DIMS,
    QuantizedKVAttention,
    config,
    grants,
    model,
    tokens,
)

ROWS, PAGES = 2, 4  # pages for less than the rows hold in the end, so that some are preempted


def small(**changes: object) -> EngineConfig:
    return config(max_num_seqs=ROWS, **changes)


class Guesses(NgramIndex):
    """Right, but for one in `wrong_every` positions."""

    __slots__ = ("_reply", "_wrong_every")

    def __init__(self, request: Request, reply: list[int], wrong_every: int) -> None:
        super().__init__(request.token_ids, request.num_prompt_tokens)
        self._reply, self._wrong_every = reply, wrong_every

    def update(self, max_tokens: int) -> bool:
        return True

    def rate(self, index: int) -> float:
        return 0.95

    def continuation(self, count: int) -> tuple[int, ...]:
        first = len(self._token_ids) - self._first_output
        guessed = (*self._reply, *[0] * count)[first : first + count]
        return tuple((token + (at % self._wrong_every == 0)) % 50 for at, token in enumerate(guessed, first))


@dataclass
class Replies:
    """What each request got, and how."""

    token_ids: list[list[int]]
    reasons: list[str | None]
    logprobs: list[list[TokenLogprobs]]
    scheduler: Scheduler
    verified: list[int] = field(default_factory=list)  # tokens of each step with drafts


PARAMS = [
    SamplingParams(temperature=0.0, max_tokens=14),
    SamplingParams(temperature=0.8, top_p=0.9, max_tokens=20, num_logprobs=2),
    SamplingParams(temperature=0.0, max_tokens=4, logits=LogitsParams(frequency_penalty=0.4, top_k=9)),
    SamplingParams(temperature=0.0, max_tokens=18, num_logprobs=0),
    SamplingParams(temperature=1.2, top_p=1.0, max_tokens=9),
    SamplingParams(temperature=0.0, max_tokens=24, stop_token_ids=frozenset(range(8))),
]


def run(
    runner: AnyRunner,
    limits: DraftLimits,
    told: list[list[int]] | None = None,
    *,
    share: int = 1,
    draft_model: RunnerDraftModel | None = None,
) -> Replies:
    """`told`: the replies that drafts are made of. `share`: fewer requests, and shorter ones."""
    scheduler = Scheduler(
        max_num_seqs=ROWS, num_pages=runner.num_kv_pages, max_prefill_tokens=40, max_context=PAGES * 16,
        draft_limits=limits, draft_model=draft_model, draft_model_cost=0.01, page_lookahead=1,
    )  # fmt: skip
    requests = [
        Request(number, list(tokens(9 + 6 * number, number)), shorter(params, share), number << 33, str(number))
        for number, params in enumerate(PARAMS[: len(PARAMS) // share])
    ]
    for number, request in enumerate(requests):
        if told:
            request.draft_source = Guesses(request, told[number], 3 + 4 * number)
        scheduler.add_request(request)
    replies = Replies([], [], [[] for _ in requests], scheduler)
    in_flight: list[tuple[object, object]] = []
    while any(request.status is not RequestStatus.FINISHED for request in requests):
        step = scheduler.schedule()
        if step is not None:
            in_flight.append((step, runner.execute_async(step.plan)))
            if step.plan.verifications:
                replies.verified.append(len(step.plan.sampled_rows))
        if in_flight and (step is None or len(in_flight) > (draft_model is None)):
            done, handle = in_flight.pop(0)
            ids = runner.wait(handle)
            for output in scheduler.update_from_output(done, ids, runner.logprobs(handle), runner.verified(handle)):
                replies.logprobs[output.request.id] += output.logprobs
    replies.token_ids = [request.output_token_ids for request in requests]
    replies.reasons = [request.finish_reason for request in requests]
    assert scheduler.cache.num_held_pages == 0
    return replies


def shorter(params: SamplingParams, share: int) -> SamplingParams:
    return replace(params, max_tokens=(params.max_tokens or 0) // share)


def eager(runner: CudaRunner) -> DraftLimits:
    """Limits with costs so low that rows always draft."""
    return replace(runner.draft_limits, cost=0.001, first_cost=0.0)


@pytest.mark.parametrize(
    ("family", "kv_heads", "fused", "quantize", "kv_dtype"),
    [
        *(pytest.param(*case, marks=pytest.mark.long) for case in (
            ("llama", 1, 128, "none", "auto"), ("llama", 2, 16, "none", "auto"),
            ("gemma", 1, 128, "none", "auto"), ("both", 2, 16, "none", "auto"),
            ("windows", 2, 128, "none", "auto"), ("qwen3moe", 1, 16, "none", "auto"),
            ("head_size", 2, 128, "none", "auto"),
            ("llama", 1, 128, "int8", "int8"), ("llama", 2, 16, "int4", "int8"), ("biases", 2, 128, "none", "auto"),
        )),
    ],
)  # fmt: skip
def test_replies_are_the_same_with_drafts(
    family: str, kv_heads: int, fused: int, quantize: str, kv_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runner.cuda.forward.FUSED_TOKENS", fused)
    if kv_dtype == "int8":
        monkeypatch.setattr("engine.runner.torch_runner.PagedAttention", QuantizedKVAttention)
    transformer = model(kv_heads, FAMILIES[family], HEAD_DIMS.get(family, 16))
    if quantize != "none":
        for block in transformer.blocks:
            quantize_block(block, int(quantize[3:]))
    share = 2 if (family, kv_heads, fused) == ("llama", 1, 128) else 1
    expected = run(TorchRunner(small(), transformer, PAGES), NO_DRAFTS, share=share)
    ours = CudaRunner(small(quantize=quantize, kv_dtype=kv_dtype), transformer)
    ours.start(PAGES)
    got = run(ours, eager(ours), expected.token_ids, share=share)
    assert got.token_ids == expected.token_ids
    assert got.reasons == expected.reasons
    for mine, theirs in zip(got.logprobs, expected.logprobs, strict=True):
        assert [one.logprob for one in mine] == pytest.approx([one.logprob for one in theirs], abs=1e-4)
        assert [[token for token, _ in one.top] for one in mine] == [[token for token, _ in one.top] for one in theirs]
    totals = got.scheduler.totals
    assert 20 // share <= totals.accepted_tokens < totals.drafted_tokens
    assert totals.preemptions or share > 1
    assert max(got.verified) > 16 or share > 1
    ours.close()


@pytest.mark.long
def test_a_draft_model_on_a_gpu_says_what_the_model_says() -> None:
    transformer = model(2)
    expected = run(TorchRunner(small(), transformer, PAGES), NO_DRAFTS, share=3)
    ours, drafting = CudaRunner(small(), transformer), CudaRunner(small(speculate="off"), transformer)
    ours.start(PAGES)
    drafting.start(9)
    draft_model = RunnerDraftModel(drafting, small(max_prefill_tokens=20), 50)
    got = run(ours, replace(eager(ours), max_drafts=3), share=3, draft_model=draft_model)
    assert got.token_ids == expected.token_ids
    totals = got.scheduler.totals
    assert totals.accepted_tokens >= 4
    assert totals.accepted_tokens > 0.9 * totals.drafted_tokens
    got.scheduler.schedule()
    assert sorted(draft_model._free_pages) == list(range(9))
    for runner in (ours, drafting):
        runner.close()


def test_a_row_whose_logits_are_not_numbers_ends_its_run() -> None:
    transformer = model(2)
    with torch.no_grad():
        transformer.tok_embeddings.weight[7] = torch.nan
    plain, ours = TorchRunner(small(), transformer, 40), CudaRunner(small(), transformer)
    ours.start(40)
    plans = [
        StepPlan(0, (NewSequence(0, 0.0, 1.0, 3),), grants(0, 0, 2), (PrefillChunk(0, 0, (3, 9, 4), True),)),
        StepPlan(1, verifications=(Verification(0, (7, 7, 5)),)),
    ]
    for plan in plans:
        expected, handle = plain.execute_async(plan), ours.execute_async(plan)
        assert ours.verified(handle) == plain.verified(expected)
    ours.close()


def test_a_step_with_drafts_prefills_nothing_and_its_costs_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runner.cuda.cuda_runner.TIMED_STEPS", 1)
    ours = CudaRunner(small(), model(2))
    ours.start(40)
    seconds = {1: 2.0, 16: 3.0, 32: 4.0}
    timed = ours._seconds
    assert timed(BatchShape(0, 16, verifies=True)) > 0
    monkeypatch.setattr(ours, "_seconds", lambda shape: seconds[shape.num_tokens])
    ours._measure_drafts()
    assert ours.draft_limits == DraftLimits(15, 1 / 32, 0.5, 32, beside_prompts=False)
    assert not ours.draft_limits.beside_prompts
    with pytest.raises(ValueError, match="beside 1 chunks"):
        ours.execute_async(
            StepPlan(0, chunks=(PrefillChunk(0, 0, (3,), True),), verifications=(Verification(1, (4, 5)),))
        )
    off = CudaRunner(small(speculate="off"), model(2))
    assert off.draft_limits == NO_DRAFTS
    ours.close()


def test_every_token_attends_once() -> None:
    """Items cover all runs, in blocks that fit, as many splits as fill the GPU, within the room that there is."""
    generator = Random(5)
    for _ in range(60):
        rows = generator.randint(1, 40)
        limits = VerifyLimits(rows, generator.choice([1, 3, 16]), generator.choice([6, 16, 64]))
        size = generator.choice(list(limits.token_counts))
        verifications, left = list[Verification](), size
        for row in range(rows):
            count = min(generator.randint(0, 15), left - 1)
            if count > 0:
                verifications.append(Verification(row, tuple(range(count))))
                left -= count + 1
        decoding = tuple(range(len(verifications), min(rows, len(verifications) + max(0, left))))
        plan = StepPlan(0, verifications=tuple(verifications), decode_rows=decoding)
        lists = verify_lists(plan, size, limits)
        assert len(lists["verify_rows"]) == size
        assert len(lists["verify_runs"]) == 4 * limits.max_runs(size)
        assert len(lists["verify_items"]) == 8 * limits.max_items(size)
        items = [lists["verify_items"][at : at + 8] for at in range(0, len(lists["verify_items"]), 8)]
        live = [item for item in items if item[0] >= 0]
        split = [number for number, item in enumerate(items) if item[5] > 1]
        assert all(number < limits.items for number in split)
        covered = [
            (row, at, offset + at - first)
            for row, first, count, offset, number, *_ in live
            if number == 0
            for at in range(first, first + count)
        ]
        assert sorted(at for _, at, _ in covered) == list(range(len(plan.sampled_rows)))
        for row, at, offset in covered:
            assert (lists["verify_rows"][at], lists["verify_offsets"][at]) == (row, offset)
        assert all(item[2] <= limits.queries for item in live)
