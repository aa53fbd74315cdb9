"""The engine as its callers use it: with an event loop or without, one request or many, and every way to end."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, EngineDead, RequestFailed, RequestStream, SamplingParams
from engine.errors import Busy, ConfigError, EngineError, PromptTooLong
from engine.layers.sampler import sample
from engine.model.loader import load_model
from engine.runner.memory import fit_host_slots, fit_pages, host_slots_in, kv_bytes_per_page
from engine.runner.torch_runner import TorchRunner
from engine.runner.torch_step import TorchStepHandle
from engine.scheduler.step_plan import StepPlan
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.tiny import VOCAB, write_checkpoint

MAX_CONTEXT = 96
GREEDY = SamplingParams(temperature=0.0, max_tokens=10)
ReferenceReply = Callable[[list[int], SamplingParams], list[int]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model"), dim=32, heads=4, kv_heads=2, layers=1))


def configure(checkpoint: Checkpoint, **changes: object) -> EngineConfig:
    config = resolve(
        checkpoint.spec, device="cpu", max_context=MAX_CONTEXT, max_num_seqs=4, max_prefill_tokens=16, seed=1
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[EngineCore]:
    engine = EngineCore.start(configure(checkpoint), checkpoint)
    yield engine
    engine.close()
    assert engine.failure is None


@pytest.fixture(scope="module")
def reference_reply(checkpoint: Checkpoint) -> ReferenceReply:
    """The reply to a prompt, computed by nothing but the model: no pages, no batch, no cache."""
    model = load_model(configure(checkpoint), checkpoint)

    def reply(ids: list[int], params: SamplingParams) -> list[int]:
        tokens = list(ids)
        temperature, top_p = torch.tensor([params.temperature]), torch.tensor([params.top_p])
        while len(tokens) < min(len(ids) + (params.max_tokens or MAX_CONTEXT), MAX_CONTEXT):
            logits, position = all_logits(model, tokens)[-1:], torch.tensor([len(tokens)])
            tokens.append(int(sample(logits, temperature, top_p, torch.tensor([params.seed or 0]), position)))
        return tokens[len(ids) :]

    return reply


def prompt(seed: int, length: int = 20) -> list[int]:
    return [Random(seed).randrange(3, VOCAB) for _ in range(length)]


def wait_until_idle(engine: EngineCore) -> None:
    deadline = time.monotonic() + 10
    while engine.stats().running or engine.stats().waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def read(stream: RequestStream) -> list[int]:
    return [token async for ids in stream for token in ids]


async def test_concurrent_requests_get_the_same_replies_as_single_ones(
    engine: EngineCore, reference_reply: ReferenceReply
) -> None:
    prompts = [prompt(n, 5 + 7 * n % 60) for n in range(12)]
    replies = await asyncio.gather(*(read(engine.submit(p, GREEDY, client=str(n))) for n, p in enumerate(prompts)))
    for prompt_ids, reply in zip(prompts, replies, strict=True):
        assert reference_reply(prompt_ids, GREEDY) == reply


async def test_ids_arrive_while_they_are_generated_and_the_end_has_a_reason(
    engine: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = TorchRunner.wait

    def slow_wait(runner: TorchRunner, handle: TorchStepHandle) -> dict[int, int]:
        time.sleep(0.02)  # as long as a real step takes
        return wait(runner, handle)

    monkeypatch.setattr(TorchRunner, "wait", slow_wait)
    stream = engine.submit(prompt(1), GREEDY)
    batches = [ids async for ids in stream]
    assert len(batches) > 1
    assert sum(map(len, batches)) == 10
    assert stream.finish_reason == "length"
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (20, 10)


async def test_a_repeated_prompt_hits_the_prefix_cache_of_its_tenant(engine: EngineCore) -> None:
    text = prompt(2, 50)
    await read(engine.submit(text, GREEDY, tenant="first"))
    again, other = engine.submit(text, GREEDY, tenant="first"), engine.submit(text, GREEDY, tenant="second")
    assert await read(again) == await read(other)
    assert (again.usage.cached_tokens, other.usage.cached_tokens) == (49, 0)


def test_every_erasure_is_answered_also_those_that_come_too_late(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineCore.start(configure(checkpoint), checkpoint)
    engine.submit(prompt(2, 50), GREEDY, tenant="a").result(30)
    wait_until_idle(engine)
    assert engine.erase("a").result(10) == 4
    assert engine.erase("a").result(10) == 0
    wait, waits, go_on = TorchRunner.wait, threading.Event(), threading.Event()

    def stopped_wait(runner: TorchRunner, handle: TorchStepHandle) -> dict[int, int]:
        waits.set()
        assert go_on.wait(20)
        return wait(runner, handle)

    monkeypatch.setattr(TorchRunner, "wait", stopped_wait)
    engine.submit(prompt(2, 50), GREEDY, tenant="a")
    assert waits.wait(20)
    late = engine.erase("a")
    threading.Timer(0.1, go_on.set).start()  # once it is closed
    engine.close()
    with pytest.raises(EngineDead):
        late.result(5)
    with pytest.raises(EngineDead):
        engine.erase("a")


def test_fault_28_sampling_depends_on_the_seed_and_on_nothing_else(engine: EngineCore, checkpoint: Checkpoint) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, max_tokens=30, seed=7)
    fresh = EngineCore.start(configure(checkpoint, seed=99), checkpoint)
    expected = fresh.submit(prompt(3), params).result(30)
    fresh.close()
    crowd = [engine.submit(prompt(50 + n), dataclasses.replace(params, seed=n)) for n in range(6)]
    assert engine.submit(prompt(3), params, tenant="x").result(30) == expected
    assert engine.submit(prompt(3), dataclasses.replace(params, seed=8)).result(30) != expected
    assert engine.submit(prompt(3), dataclasses.replace(params, seed=None)).result(30) != expected
    for stream in crowd:
        stream.result(30)


async def test_cancel_ends_a_reply_at_once(engine: EngineCore) -> None:
    stream = engine.submit(prompt(4, 4), SamplingParams(temperature=0.0, max_tokens=None))
    async for _ in stream:
        stream.cancel()
    assert stream.finish_reason == "cancelled"
    stream.cancel()
    assert len(stream.token_ids) < MAX_CONTEXT - 4
    wait_until_idle(engine)


def test_a_reply_ends_at_a_stop_token_unless_told_to_ignore_it(engine: EngineCore) -> None:
    full = engine.submit(prompt(5), GREEDY).result(30)
    params = dataclasses.replace(GREEDY, stop_token_ids=frozenset({full[4]}))
    stopped = engine.submit(prompt(5), params)
    assert stopped.result(30) == full[: full.index(full[4])]
    assert stopped.finish_reason == "stop"
    assert engine.submit(prompt(5), dataclasses.replace(params, ignore_eos=True)).result(30) == full


def test_invalid_requests_are_refused_with_the_limits(engine: EngineCore) -> None:
    with pytest.raises(PromptTooLong) as caught:
        engine.submit([3] * MAX_CONTEXT, GREEDY)
    assert (caught.value.limit, caught.value.got) == (MAX_CONTEXT - 1, MAX_CONTEXT)
    assert len(engine.submit([3] * (MAX_CONTEXT - 1), GREEDY).result(30)) == 1
    for bad, params in (
        ([], GREEDY),
        ([VOCAB], GREEDY),
        ([-1], GREEDY),
        ([3], SamplingParams(max_tokens=0)),
        ([3], SamplingParams(temperature=float("nan"))),
        ([3], SamplingParams(top_p=1.5)),
    ):
        with pytest.raises(EngineError):
            engine.submit(bad, params)


async def test_a_slow_reader_delays_no_other_request(engine: EngineCore) -> None:
    slow = engine.submit(prompt(6), SamplingParams(temperature=0.0, max_tokens=40))
    for n in range(5):
        assert len(await read(engine.submit(prompt(60 + n), GREEDY))) == 10
    await asyncio.to_thread(slow.result, 30)
    assert len(await read(slow)) == 40


def test_the_queue_is_bounded_but_accepts_a_tenant_without_requests(checkpoint: Checkpoint) -> None:
    engine = EngineCore.start(configure(checkpoint, max_waiting=6), checkpoint)
    blocked = threading.Event()
    with block_steps(blocked):
        params = SamplingParams(temperature=0.0, max_tokens=4)
        accepted = [engine.submit(prompt(n), params, tenant="loud", client=str(n)) for n in range(10)]
        with pytest.raises(Busy) as caught:
            engine.submit(prompt(99), params, tenant="loud")
        assert 1 <= caught.value.retry_after <= 60
        quiet = engine.submit(prompt(100), params, tenant="quiet")
        with pytest.raises(Busy):
            engine.submit(prompt(101), params, tenant="quiet")
        blocked.set()
        for stream in (*accepted, quiet):
            assert len(stream.result(30)) == 4
    engine.submit(prompt(102), params, tenant="loud").result(30)
    engine.close()


def test_a_failed_step_fails_every_reply_and_the_engine(checkpoint: Checkpoint) -> None:
    engine = EngineCore.start(configure(checkpoint), checkpoint)
    running = [engine.submit(prompt(n), SamplingParams(max_tokens=60)) for n in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchRunner, "execute_async", _no_memory)
        for stream in running:
            with pytest.raises(RequestFailed, match="The engine failed"):
                stream.result(30)
            assert stream.finish_reason == "error"
    assert engine.failure == "OutOfMemoryError: no memory left"
    with pytest.raises(EngineDead):
        engine.submit([3], GREEDY)
    engine.close()


async def test_closing_ends_what_runs(checkpoint: Checkpoint) -> None:
    engine = EngineCore.start(configure(checkpoint), checkpoint)
    running = [engine.submit(prompt(n, 4), SamplingParams(temperature=0.0, max_tokens=90)) for n in range(6)]
    await asyncio.to_thread(engine.close)
    for stream in running:
        await read(stream)
        assert stream.finish_reason == "cancelled"
    with pytest.raises(EngineDead):
        engine.submit([3], GREEDY)


def test_invalid_logits_fail_only_their_own_reply(checkpoint: Checkpoint) -> None:
    engine = EngineCore.start(configure(checkpoint), checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.runner.torch_runner.greedy", lambda logits: torch.full((len(logits),), -1))
        with pytest.raises(RequestFailed, match="not a number"):
            engine.submit(prompt(1), GREEDY).result(30)
    assert len(engine.submit(prompt(1), GREEDY).result(30)) == 10
    engine.close()


def test_an_error_about_too_little_memory_names_what_fits(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match=r"--kv-memory: expected room for at least 96 tokens.*; found room for 64"):
        EngineCore.start(configure(checkpoint, num_kv_pages=4), checkpoint)
    with pytest.raises(ConfigError, match="--max-seq-len: expected at most 64, as many tokens as the free memory"):
        fit_pages(configure(checkpoint), page_bytes=100, free_bytes=499)


def test_a_context_that_the_user_left_open_is_what_the_pages_hold(checkpoint: Checkpoint) -> None:
    engine = EngineCore.start(configure(checkpoint, num_kv_pages=4, fits_context=True), checkpoint)
    assert engine.config.max_context == 64
    with pytest.raises(PromptTooLong):
        engine.submit(prompt(1, 64), GREEDY)
    everything = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)
    assert len(engine.submit(prompt(1, 40), everything).result(30)) == 24
    engine.close()


def test_the_memory_of_the_host_is_a_share_or_what_was_asked_for(checkpoint: Checkpoint) -> None:
    config = configure(checkpoint, world_size=2)
    page = kv_bytes_per_page(checkpoint.spec, config)
    assert [host_slots_in(size, checkpoint.spec, config) for size in ("auto", "0", "1MiB", "0.5GiB")] == [
        None, 0, (1 << 20) // (2 * page), (1 << 29) // (2 * page),
    ]  # fmt: skip
    for size in ("lots", "1", "-1GiB", "8GB"):
        with pytest.raises(ConfigError, match=f"--kv-host-memory: expected auto, 0, or a size such as.*found {size}"):
            host_slots_in(size, checkpoint.spec, config)
    with pytest.raises(ConfigError, match="--kv-host-memory: expected 0, or at least 1MiB, as much as one page needs"):
        host_slots_in("0.001MiB", checkpoint.spec, config)
    on_gpu = dataclasses.replace(config, device=torch.device("cuda", 0))
    assert fit_host_slots(config, page_bytes=100, free_bytes=10_000) == 0  # a CPU has the pages in this memory anyway
    assert fit_host_slots(on_gpu, page_bytes=100, free_bytes=10_000) == 25  # half of it, for two ranks
    asked = dataclasses.replace(on_gpu, num_host_slots=50)
    assert fit_host_slots(asked, page_bytes=100, free_bytes=10_000) == 50
    with pytest.raises(ConfigError, match=r"--kv-host-memory: expected at most .* GiB, what is free"):
        fit_host_slots(asked, page_bytes=101, free_bytes=10_000)


def test_the_stats_add_up(checkpoint: Checkpoint) -> None:
    engine = EngineCore.start(configure(checkpoint), checkpoint)
    for n in range(3):
        engine.submit([*prompt(1, 40), n], GREEDY).result(30)
    wait_until_idle(engine)
    stats = engine.stats()
    assert stats.prompt_tokens == 123 == stats.prompt_tokens_computed + stats.prompt_tokens_cached
    assert stats.prompt_tokens_cached == 80
    assert stats.tokens_generated == 30
    assert stats.finished == {"length": 3}
    assert stats.kv_tokens_used == 0 < stats.kv_tokens_cached < stats.kv_tokens_total
    assert stats.first_token_time.cumulative[-1][1] == stats.queue_time.cumulative[-1][1] == 3
    assert stats.step_time.cumulative[-1][1] == stats.steps
    assert stats.rank_memory[0] > 0
    engine.close()


events = st.lists(
    st.tuples(
        st.integers(0, 5),  # persona
        st.integers(0, 3),  # how much of the dialog's start was trimmed
        st.integers(1, 30),  # length of the message
        st.integers(1, 25),  # max_tokens
        st.sampled_from(["read", "read", "cancel", "leave"]),
    ),
    min_size=3,
    max_size=14,
)


@pytest.fixture(scope="module")
def small(checkpoint: Checkpoint) -> Iterator[EngineCore]:
    """Few pages, so that requests are preempted and pages evicted."""
    engine = EngineCore.start(configure(checkpoint, num_kv_pages=10), checkpoint)
    yield engine
    engine.close()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events)
def test_any_interleaving_gives_the_replies_of_single_requests(
    small: EngineCore, reference_reply: ReferenceReply, events: list[tuple[int, int, int, int, str]]
) -> None:
    check_interleaving(small, reference_reply, events)


@pytest.mark.long
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events)
def test_any_of_many_interleavings_gives_the_replies_of_single_requests(
    small: EngineCore, reference_reply: ReferenceReply, events: list[tuple[int, int, int, int, str]]
) -> None:
    check_interleaving(small, reference_reply, events)


def check_interleaving(
    small: EngineCore, reference_reply: ReferenceReply, events: list[tuple[int, int, int, int, str]]
) -> None:
    started = []
    for n, (persona, trim, length, max_tokens, action) in enumerate(events):
        ids = [*prompt(persona % 2, 20), *prompt(1000 + trim, 40)[10 * trim :], *prompt(n, length)][: MAX_CONTEXT - 2]
        params = SamplingParams(temperature=0.7 * (n % 2), max_tokens=max_tokens, seed=n)
        stream = small.submit(ids, params, client=str(n % 3), tenant=str(persona % 3))
        if action == "leave":
            stream.cancel()
        started.append((ids, params, stream, action))
        if action == "cancel":
            time.sleep(0.002)
            stream.cancel()
    for ids, params, stream, action in started:
        got = stream.result(60)
        expected = reference_reply(ids, params)
        assert got == expected[: len(got)]
        assert action != "read" or got == expected
    wait_until_idle(small)


def test_few_pages_cause_preemptions(small: EngineCore) -> None:
    running = [small.submit(prompt(n, 30), SamplingParams(temperature=0.0, max_tokens=60)) for n in range(6)]
    for stream in running:
        stream.result(60)
    assert small.stats().preemptions > 0


class block_steps:
    """A context in which no step ends before `release` is set."""

    def __init__(self, release: threading.Event) -> None:
        self._release, self._patch = release, pytest.MonkeyPatch()

    def __enter__(self) -> None:
        wait = TorchRunner.wait

        def blocked_wait(runner: TorchRunner, handle: TorchStepHandle) -> dict[int, int]:
            self._release.wait(30)
            return wait(runner, handle)

        self._patch.setattr(TorchRunner, "wait", blocked_wait)

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def _no_memory(runner: TorchRunner, plan: StepPlan) -> TorchStepHandle:
    raise torch.OutOfMemoryError("no memory left")
