"""Adjusted logits against their definition written out token by token, whatever else is in the batch."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.logits import LogitsAdjuster, log_probabilities
from engine.layers.sampler import sample
from engine.logits_params import NEUTRAL, Adjustment, LogitsParams

V = 37


def by_definition(
    logits: list[float], params: LogitsParams, temperature: float, prompt: list[int], output: list[int],
    stop_ids: list[int], allowed: set[int] | None,
) -> list[float]:  # fmt: skip
    """The seven rules of `engine/layers/logits.py`, one token after the other, in double precision."""
    counts, bias = Counter(output), dict(params.logit_bias)
    result = list(logits)
    for token in range(V):
        if allowed is not None and token not in allowed:
            result[token] = -math.inf
        if len(output) < params.min_tokens and token in stop_ids:
            result[token] = -math.inf
        result[token] += bias.get(token, 0.0)
        if token in counts or token in prompt:
            penalty = params.repetition_penalty
            result[token] = result[token] / penalty if result[token] > 0 else result[token] * penalty
        result[token] -= params.frequency_penalty * counts[token] + params.presence_penalty * (counts[token] > 0)
    if temperature > 0:
        highest = max(result)
        weights = [math.exp((value - highest) / temperature) for value in result]
        result = [value if weight >= params.min_p else -math.inf for value, weight in zip(result, weights, strict=True)]
        if 0 < params.top_k < V:
            bound = sorted(result, reverse=True)[params.top_k - 1]
            result = [value if value >= bound else -math.inf for value in result]
    return result


tokens = st.integers(0, V - 1)
# Values on a grid, so that no rounding decides whether a token reaches the bound of min-p.
grid = st.integers(-24, 24).map(lambda value: value / 4)
logits_params = st.builds(
    LogitsParams,
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.25, 2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5, -1.5]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.75, -2.0]),
    logit_bias=st.dictionaries(tokens, grid, max_size=4).map(lambda bias: tuple(bias.items())),
    min_tokens=st.integers(0, 6),
    min_p=st.sampled_from([0.0, 0.0, 0.03, 0.3, 1.0]),
    top_k=st.sampled_from([0, -1, 1, 2, 7, V, V + 5]),
)
sequences = st.fixed_dictionaries(
    {
        "params": logits_params,
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "prompt": st.lists(tokens, min_size=1, max_size=9),
        "output": st.lists(tokens, max_size=5),
        "stop_ids": st.lists(tokens, max_size=3, unique=True),
        "allowed": st.none() | st.sets(tokens, min_size=4),
    }
)


def pack(allowed: set[int]) -> bytes:
    bits = bytearray(-(-V // 8))
    for token in allowed:
        bits[token // 8] |= 1 << token % 8
    return bytes(bits)


@settings(max_examples=60, deadline=None)
@given(st.lists(sequences, min_size=1, max_size=6), st.data())
def test_every_rule_as_it_is_defined_over_three_steps(batch: list[dict], data: st.DataObject) -> None:
    """The rows of a batch differ in everything, and their tokens are counted from step to step."""
    adjuster = LogitsAdjuster(V, torch.device("cpu"))
    rows = data.draw(st.permutations(range(8)))[: len(batch)]
    for row, each in zip(rows, batch, strict=True):
        adjuster.add(row, Adjustment(NEUTRAL, (1, 2), 1), 1.0)  # an earlier sequence of the row, to be forgotten
        history = tuple(each["prompt"] + each["output"]) if each["params"].has_penalties else ()
        adjustment = Adjustment(
            each["params"], history, len(each["prompt"]), len(each["output"]), tuple(each["stop_ids"])
        )
        adjuster.add(row, adjustment, each["temperature"])
        assert row in adjuster
    for _ in range(3):
        picked = data.draw(st.lists(st.sampled_from(range(len(batch))), min_size=1, unique=True))
        raw = [data.draw(st.lists(grid, min_size=V, max_size=V)) for _ in picked]
        logits = torch.tensor(raw)
        masks = {rows[n]: pack(batch[n]["allowed"]) for n in picked if batch[n]["allowed"] is not None}
        adjuster.adjust(logits, [rows[n] for n in picked], masks)
        for at, n in enumerate(picked):
            expected = torch.tensor(by_definition(raw[at], **batch[n]))
            torch.testing.assert_close(logits[at], expected, rtol=1e-5, atol=1e-5)
        chosen = data.draw(st.lists(tokens, min_size=len(picked), max_size=len(picked)))
        adjuster.record([rows[n] for n in picked], torch.tensor(chosen))
        for n, token in zip(picked, chosen, strict=True):
            batch[n]["output"].append(token)


def test_more_sequences_than_the_counts_had_room_for_keep_theirs() -> None:
    adjuster = LogitsAdjuster(V, torch.device("cpu"))
    params = LogitsParams(frequency_penalty=1.0)
    for row in range(40):
        adjuster.add(row, Adjustment(params, (0, row % V), 1, 1), 0.0)
        if row % 3 == 2:
            adjuster.remove(row)
    rows = [row for row in range(40) if row % 3 != 2]
    logits = torch.zeros(len(rows), V)
    adjuster.adjust(logits, rows, {})
    assert logits.argmin(dim=-1).tolist() == [row % V for row in rows]
    assert logits.sum().item() == -len(rows)


def test_top_k_and_min_p_come_before_top_p() -> None:
    """Of four tokens top-k leaves two, and top-p is a share of these two, not of all."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    adjuster = LogitsAdjuster(4, torch.device("cpu"))
    adjuster.add(0, Adjustment(LogitsParams(top_k=2)), 1.0)
    adjuster.adjust(logits, [0], {})
    share = math.e / (1 + math.e)  # of the first of two
    for top_p, kept in ((share - 0.01, {0}), (share + 0.01, {0, 1})):
        ids = {
            int(sample(logits, torch.tensor([1.0]), torch.tensor([top_p]), torch.tensor([7]), torch.tensor([position])))
            for position in range(60)
        }
        assert ids == kept


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_log_probabilities_of_the_sampled_and_of_the_likeliest(count: int) -> None:
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(3))
    batch = log_probabilities(logits, torch.tensor([5, -1, 9]), (4, 2, 7), (count, 1, 0))
    found = batch.by_row({4: 5, 2: -1, 7: 9})
    assert set(found) == {4, 7}  # row 2 could not be sampled from
    scores = logits.double().log_softmax(dim=-1)
    assert found[4].logprob == pytest.approx(scores[0, 5].item(), abs=1e-5)
    ranked = sorted(range(V), key=lambda token: -scores[0, token])[:count]
    assert [token for token, _ in found[4].top] == ranked
    assert [value for _, value in found[4].top] == pytest.approx(
        [scores[0, token].item() for token in ranked], abs=1e-5
    )
    assert found[7].top == ()
