"""With drafts every request gets the ids and log-probabilities that it gets without them, by every path of a CPU."""

import dataclasses
from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import pytest

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.layers.cpu_linear import has_fast_int4, has_fast_int8
from engine.logits_params import LogitsParams, TokenLogprobs
from engine.offline import OfflineEngine
from engine.runner.cpu.build import compiled_library
from tests.engine.tiny import VOCAB, write_checkpoint

MAX_CONTEXT, PAGES = 128, 20  # pages for two and a half full contexts, so that requests are preempted
WORDS = [Random(7).randrange(3, VOCAB) for _ in range(9)]
PROMPTS = [
    [1, *WORDS * 4],
    [1, *WORDS[:5] * 5, 7],
    [1, 9, 8, 7, *WORDS, 11, 12, *WORDS[:6]],
    [1, *range(20, 40)],
    [1, *WORDS * 3, 44],
]
PARAMS = [
    SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True),
    SamplingParams(temperature=0.0, max_tokens=50, ignore_eos=True, num_logprobs=3),
    SamplingParams(temperature=0.05, top_p=0.8, max_tokens=60, ignore_eos=True, seed=5, num_logprobs=0),
    SamplingParams(temperature=0.7, top_p=1.0, max_tokens=30, ignore_eos=True, seed=6),
    SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, logits=LogitsParams(frequency_penalty=0.4)),
]
FORMS = {
    "float": ("none", False),
    "int8 in torch": ("int8", False),
    "int8 in C++": ("int8", True),
    "int4 in C++": ("int4", True),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("model")
    return open_checkpoint(write_checkpoint(folder, dim=64, heads=4, kv_heads=2, layers=2, multiple_of=64, cycle=12))


def start(checkpoint: Checkpoint, quantize: str, speculate: str, *, native: bool, overlap: bool = False) -> EngineCore:
    config = resolve(
        checkpoint.spec, device="cpu", quantize=quantize, max_context=MAX_CONTEXT, max_num_seqs=4,
        max_prefill_tokens=24, speculate=speculate, seed=1,
    )  # fmt: skip
    return EngineCore.start(dataclasses.replace(config, native=native, overlap=overlap, num_kv_pages=PAGES), checkpoint)


@pytest.fixture(scope="module", params=FORMS)
def pair(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Iterator[tuple[EngineCore, EngineCore, bool]]:
    """An engine without drafts, one with them, and whether nothing that happens at the same time changes a bit."""
    quantize, native = FORMS[request.param]
    if (native and compiled_library() is None) or (quantize != "none" and not (has_fast_int8() and has_fast_int4())):
        pytest.skip("this machine has no such path")
    # What is exact is drafted by default.
    speculate = "ngram" if quantize == "none" else "auto"
    engines = [start(checkpoint, quantize, mode, native=native) for mode in ("off", speculate)]
    yield (*engines, native)
    for engine in engines:
        engine.close()
        assert engine.failure is None


class Reply(NamedTuple):
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    finish_reason: str | None
    completion_tokens: int


def ask(engine: EngineCore, *, stop: bool = False, together: bool = True) -> list[Reply]:
    """All requests, at the same time or one after the other."""
    streams = []
    asked = list(zip(PROMPTS * 2, [*PARAMS, *PARAMS[1:], PARAMS[0]], strict=True))
    for prompt, params in asked if together else asked[: len(PROMPTS)]:
        if stop:
            params = dataclasses.replace(params, ignore_eos=False, stop_token_ids=frozenset(WORDS[8:]))
        streams.append(engine.submit(prompt, params, client=str(len(streams) % 3)))
        if not together:
            streams[-1].result(60)
    for stream in streams:
        stream.result(60)
    return [
        Reply(stream.token_ids, stream.logprobs, stream.finish_reason, stream.usage.completion_tokens)
        for stream in streams
    ]


@pytest.mark.parametrize("stop", [False, True])
def test_replies_are_the_same_with_drafts(pair: tuple[EngineCore, EngineCore, bool], stop: bool) -> None:
    without, with_drafts, exact = pair
    is_float = not with_drafts.config.quantize.startswith("int")
    before = with_drafts.stats()
    # In torch the last bits of a prompt's keys depend on how it is split into chunks, with drafts and without.
    expected, got = (ask(engine, stop=stop, together=exact) for engine in (without, with_drafts))
    assert [each.token_ids for each in got] == [each.token_ids for each in expected]
    assert [each[2:] for each in got] == [each[2:] for each in expected]
    for mine, theirs in zip(got, expected, strict=True):
        assert len(mine.logprobs) == len(theirs.logprobs)
        assert not mine.logprobs or len(mine.logprobs) == len(mine.token_ids)
        if not is_float:
            assert mine.logprobs == theirs.logprobs
    after = with_drafts.stats()
    accepted, drafted = after.accepted_tokens - before.accepted_tokens, after.drafted_tokens - before.drafted_tokens
    assert 20 < accepted < drafted
    assert without.stats().drafted_tokens == 0


def test_float_weights_are_drafted_only_on_request(checkpoint: Checkpoint) -> None:
    for speculate, drafts in (("auto", False), ("ngram", True)):
        engine = start(checkpoint, "none", speculate, native=False)
        engine.submit(PROMPTS[0], PARAMS[0]).result(60)
        assert bool(engine.stats().drafted_tokens) == drafts
        engine.close()


def test_rows_draft_ahead_of_their_ids_where_steps_overlap(checkpoint: Checkpoint) -> None:
    engines = [start(checkpoint, "none", mode, native=False, overlap=True) for mode in ("off", "ngram")]
    expected, got = (ask(engine, together=False) for engine in engines)
    assert [each.token_ids for each in got] == [each.token_ids for each in expected]
    without, with_drafts = (engine.stats() for engine in engines)
    assert with_drafts.accepted_tokens > 20
    assert with_drafts.steps < without.steps - 10
    for engine in engines:
        engine.close()
        assert engine.failure is None


def test_programs_without_a_server_draft_too(checkpoint: Checkpoint) -> None:
    replies = []
    for speculate in ("off", "ngram"):
        config = resolve(checkpoint.spec, device="cpu", max_context=MAX_CONTEXT, speculate=speculate)
        engine = OfflineEngine.load(dataclasses.replace(config, num_kv_pages=60), checkpoint)
        replies.append(engine.generate(PROMPTS, PARAMS[0], [0] * len(PROMPTS)))
        drafted = engine._scheduler.totals.drafted_tokens
        engine.close()
    assert replies[0] == replies[1]
    assert drafted
