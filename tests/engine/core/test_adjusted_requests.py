"""Requests with penalties, bias and constraints get the reply that each would get alone, whatever happens to them."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, RequestFailed, SamplingParams
from engine.errors import EngineError
from engine.logits_params import ConstraintFailed, LogitsParams
from engine.model.loader import load_model
from engine.model.transformer import Transformer
from tests.engine.distributed.rank_worker import all_logits
from tests.engine.tiny import VOCAB, write_checkpoint

MAX_CONTEXT, PAGES = 96, 11  # pages for less than two full contexts, so that requests are preempted
PREFIX = [Random(5).randrange(3, VOCAB) for _ in range(40)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model"), dim=32, heads=4, kv_heads=2, layers=1))


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> Transformer:
    return load_model(resolve(checkpoint.spec, device="cpu", max_context=MAX_CONTEXT), checkpoint)


@pytest.fixture(scope="module", params=[False, True], ids=["read at once", "overlap"])
def engine(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Iterator[EngineCore]:
    config = resolve(
        checkpoint.spec, device="cpu", max_context=MAX_CONTEXT, max_num_seqs=4, max_prefill_tokens=16, seed=1
    )
    config = dataclasses.replace(config, overlap=request.param, num_kv_pages=PAGES)
    engine = EngineCore.start(config, checkpoint)
    yield engine
    engine.close()
    assert engine.failure is None


class OnlyAfter:
    """A constraint that depends on the tokens so far: an even id after an odd one and the other way round."""

    def __init__(self, length: int) -> None:
        self.length, self.taken = length, list[int]()

    def mask(self) -> bytes:
        return bytes([0b10101010 if len(self.taken) % 2 else 0b01010101]) * (VOCAB // 8)

    def accept(self, token_id: int) -> bool:
        assert token_id % 2 == len(self.taken) % 2
        self.taken.append(token_id)
        return len(self.taken) == self.length

    def check(self) -> None:
        """It never fails."""


@dataclasses.dataclass(frozen=True)
class Ask:
    prompt: list[int]
    logits: LogitsParams
    length: int
    constrained: bool

    def params(self) -> SamplingParams:
        # Every eighth id is a stop token.
        stops = frozenset(range(0, VOCAB, 8))
        return SamplingParams(
            temperature=0.0, max_tokens=self.length, stop_token_ids=stops, logits=self.logits, num_logprobs=2
        )


def alone(model: Transformer, ask: Ask) -> tuple[list[int], str]:
    """The greedy reply by nothing but the model and the definition of the penalties."""
    output: list[int] = []
    params, bias = ask.logits, dict(ask.logits.logit_bias)
    while len(output) < ask.length and len(ask.prompt) + len(output) < MAX_CONTEXT:
        logits = all_logits(model, ask.prompt + output)[-1].double()
        counts = Counter(output)
        for token in range(VOCAB):
            if ask.constrained and token % 2 != len(output) % 2:
                logits[token] = -torch.inf
            if token % 8 == 0 and len(output) < params.min_tokens:
                logits[token] = -torch.inf
            logits[token] += bias.get(token, 0.0)
        for token in {*ask.prompt, *output}:
            penalty = params.repetition_penalty
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        for token, count in counts.items():
            logits[token] -= params.frequency_penalty * count + params.presence_penalty
        token = int(logits.argmax())
        if token % 8 == 0:
            return output, "stop"
        output.append(token)
        if ask.constrained and len(output) == 20:
            return output, "stop"
    return output, "length"


asks = st.builds(
    Ask,
    prompt=st.tuples(st.integers(0, 40), st.lists(st.integers(3, VOCAB - 1), min_size=1, max_size=25)).map(
        lambda parts: PREFIX[: parts[0]] + parts[1]
    ),
    logits=st.builds(
        LogitsParams,
        repetition_penalty=st.sampled_from([1.0, 1.3, 3.0]),
        frequency_penalty=st.sampled_from([0.0, 0.7, 2.0]),
        presence_penalty=st.sampled_from([0.0, 0.5]),
        logit_bias=st.dictionaries(st.integers(0, VOCAB - 1), st.sampled_from([-100.0, 3.0]), max_size=3).map(
            lambda bias: tuple(bias.items())
        ),
        min_tokens=st.sampled_from([0, 5, 30]),
        min_p=st.sampled_from([0.0, 0.2]),  # changes no greedy reply
        top_k=st.sampled_from([0, 3]),
    ),
    length=st.integers(1, 40),
    constrained=st.booleans(),
)


batches = st.lists(st.tuples(asks, st.sampled_from("ab")), min_size=1, max_size=6)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_any_interleaving_gives_each_request_the_reply_it_gets_alone(
    engine: EngineCore, model: Transformer, batch: list[tuple[Ask, str]]
) -> None:
    """Prompts in chunks, cached prefixes, preemption: the counts of a request's tokens are right after all of them."""
    check_alone(engine, model, batch)


@pytest.mark.long
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_any_of_many_interleavings_gives_each_request_the_reply_it_gets_alone(
    engine: EngineCore, model: Transformer, batch: list[tuple[Ask, str]]
) -> None:
    check_alone(engine, model, batch)


def check_alone(engine: EngineCore, model: Transformer, batch: list[tuple[Ask, str]]) -> None:
    streams = []
    for ask, tenant in batch:
        constraint = OnlyAfter(20) if ask.constrained else None
        streams.append(engine.submit(ask.prompt, ask.params(), tenant=tenant, constraint=constraint))
    for (ask, _), stream in zip(batch, streams, strict=True):
        found = stream.result(60)
        assert (found, stream.finish_reason) == alone(model, ask)
        assert len(stream.logprobs) == len(found)


def test_requests_were_preempted_and_hit_the_prefix_cache(engine: EngineCore) -> None:
    """Else the test above would have tested less than it says."""
    params = SamplingParams(temperature=0.0, max_tokens=50, logits=LogitsParams(frequency_penalty=1.0))
    streams = [engine.submit([*PREFIX, 5, n], params, tenant=str(n % 2)) for n in range(4)]
    replies = [stream.result(60) for stream in streams]
    again = [engine.submit([*PREFIX, 5, n], params).result(60) for n in range(4)]
    assert replies == again
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.prompt_tokens_cached > 0


def test_log_probabilities_are_those_of_the_model_before_anything_is_adjusted(
    engine: EngineCore, model: Transformer
) -> None:
    prompt = [5, 9, 300]
    params = SamplingParams(
        temperature=1.7, top_p=0.5, max_tokens=12, seed=3, num_logprobs=4,
        logits=LogitsParams(repetition_penalty=2.0, top_k=40, logit_bias=((7, 5.0),)),
    )  # fmt: skip
    stream = engine.submit(prompt, params)
    ids = stream.result(30)
    scores = all_logits(model, prompt + ids)[len(prompt) - 1 : -1].log_softmax(dim=-1)
    assert len(ids) == len(stream.logprobs) == 12
    for score, token, found in zip(scores, ids, stream.logprobs, strict=True):
        assert found.logprob == pytest.approx(score[token].item(), abs=1e-4)
        assert [id_ for id_, _ in found.top] == score.topk(4).indices.tolist()


class Broken(OnlyAfter):
    """A constraint that breaks at its third token."""

    def accept(self, token_id: int) -> bool:
        if len(self.taken) == 2:
            raise ConstraintFailed("it grew too large")
        return super().accept(token_id)


def test_a_constraint_that_breaks_ends_its_own_request_only(engine: EngineCore, model: Transformer) -> None:
    ask = Ask([5, 9, 300], LogitsParams(), 10, True)
    broken = engine.submit(ask.prompt, ask.params(), constraint=Broken(20))
    fine = engine.submit(ask.prompt, ask.params(), constraint=OnlyAfter(20))
    with pytest.raises(RequestFailed, match="it grew too large"):
        broken.result(30)
    assert (fine.result(30), fine.finish_reason) == alone(model, ask)


@pytest.mark.parametrize(
    "logits",
    [
        LogitsParams(repetition_penalty=0.0),
        LogitsParams(repetition_penalty=float("nan")),
        LogitsParams(presence_penalty=float("inf")),
        LogitsParams(min_p=1.5),
        LogitsParams(logit_bias=((VOCAB, 1.0),)),
        LogitsParams(logit_bias=((-1, 1.0),)),
        LogitsParams(logit_bias=((1, float("inf")),)),
    ],
)
def test_what_cannot_be_computed_is_refused(engine: EngineCore, logits: LogitsParams) -> None:
    with pytest.raises(EngineError, match=r"repetition|presence|min_p|logit_bias"):
        engine.submit([1], SamplingParams(logits=logits))
