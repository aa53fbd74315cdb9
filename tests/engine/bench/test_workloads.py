"""Every workload sends what it says, and gets what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from engine.bench.drive import Sampling
from engine.bench.workloads import WORKLOADS, rows_of


class EchoClient:
    """Answers each request at once, with one token after another; keeps the prompts."""

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    async def stream(
        self, prompt: list[int], output_len: int, sampling: Sampling, *, client: str, tenant: str
    ) -> AsyncIterator[Sequence[int]]:
        self.prompts.append(prompt)
        for token in range(output_len):
            await asyncio.sleep(0)
            yield [token]


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in ("W5", "W6", "W6b", "M128", "M256")])
def test_each_workload_ends_with_a_summary(name: str) -> None:
    client = EchoClient()
    record = asyncio.run(WORKLOADS[name].drive(client, 300, 0.02))
    summary = record.summary()
    assert summary["output_tokens"] == sum(len(request.token_ids) for request in record.requests) > 0
    assert all(3 <= token < 300 for prompt in client.prompts for token in prompt if token >= 100)


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
