"""Every workload sends what it says, and gets what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from engine.bench.drive import Sampling
from engine.bench.trace import FIRST_ID
from engine.bench.workloads import WORKLOADS, rows_of

SMALL_VOCABULARY = 300


class EchoClient:
    """Answers each request at once, with one token after another; keeps the prompts and the lengths asked for."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []
        self.lengths: list[int] = []

    async def stream(
        self, prompt: list[int], output_len: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        self.prompts.append(prompt)
        self.lengths.append(output_len)
        for number in range(output_len):
            await asyncio.sleep(0)
            yield [FIRST_ID + number % 100]


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_workload_ends_with_a_summary(name: str) -> None:
    client = EchoClient()
    record = asyncio.run(WORKLOADS[name].drive(client, SMALL_VOCABULARY, 0.02))
    untimed = 1 if name == "T2" else 0  # the request whose prompt the others find in the cache, for one token
    assert record.summary()["output_tokens"] == sum(client.lengths[untimed:])
    assert [request.num_prompt_tokens for request in record.requests] == list(map(len, client.prompts[untimed:]))
    assert {token for prompt in client.prompts for token in prompt} <= {*range(FIRST_ID, SMALL_VOCABULARY)}


async def test_the_members_of_w3p_share_four_long_personas() -> None:
    client = EchoClient()
    await WORKLOADS["W3p"].drive(client, 32000, 1.0)
    assert len({tuple(prompt[:2048]) for prompt in client.prompts}) == 4
    assert len(client.prompts) == 32 * 6


async def test_only_new_tokens_differ_in_t2() -> None:
    client = EchoClient()
    await WORKLOADS["T2"].drive(client, 32000, 1.0)
    first, *rest = client.prompts
    assert len(first) == 2000
    assert all(prompt[:2000] == first and len(prompt) == 2040 for prompt in rest)


def test_workloads_with_other_rows_are_another_run() -> None:
    assert rows_of(["W1", "W3"]) == 32
    assert rows_of(["W3u", "W3p"]) is None
    with pytest.raises(ValueError, match="two runs"):
        rows_of(["W3", "W3u"])
