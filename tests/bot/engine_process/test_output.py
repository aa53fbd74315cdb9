"""The engine's lines in the bot's log: without their prefix, and with the rank that they come from."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from bot.engine_process.output import EngineOutput


@pytest.mark.parametrize(
    ("line", "text", "rank"),
    [
        ("engine: llama is ready after 3.1 s", "llama is ready after 3.1 s", 0),
        ("engine: [rank 2] --model: expected a file", "[rank 2] --model: expected a file", 2),
        ("engine: rank 3: no symmetric memory between GPUs", "rank 3: no symmetric memory between GPUs", 3),
        ("[rank1]:[W1129] NCCL is slow", "[rank1]:[W1129] NCCL is slow", 1),
        ("W1129 torch/distributed/run.py: a notice", "W1129 torch/distributed/run.py: a notice", None),
        ("engine: the file is rank 7: no", "the file is rank 7: no", 0),
        ("[rank99999999999] x", "[rank99999999999] x", None),
    ],
)
async def test_a_line_is_logged_with_its_rank(line: str, text: str, rank: int | None) -> None:
    stream = asyncio.StreamReader()
    stream.feed_data(line.encode() + b"\n")
    stream.feed_eof()
    with capture_logs() as logged:
        await EngineOutput().forward(stream)
    [event] = logged
    assert event["event"] == text
    assert event.get("rank") == rank
