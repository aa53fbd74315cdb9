"""The guard that ends a response which only repeats itself: what it catches, and what it must leave alone."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoint import DEFAULT_MODEL, open_checkpoint
from engine.server.generation.repetition import BOUNDS, RepetitionGuard, period_of
from engine.tokenizers.base import StreamDecoder, Tokenizer
from tests.engine.server.conftest import Served

ROOT = Path(__file__).parents[4]
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_checkpoint(DEFAULT_MODEL).tokenizer()


def ended_at(tokenizer: Tokenizer, text: str) -> int | None:
    """After how many tokens of a text the guard ends it."""
    guard, decoder, ids = RepetitionGuard(tokenizer.decode), StreamDecoder(tokenizer), list[int]()
    for token_id in tokenizer.encode(text):
        ids.append(token_id)
        if guard.push(decoder.push(token_id), ids):
            return len(ids)
    return None


LOOPS = {
    "a word": "very " * 4000,
    "a sentence": "I am sorry, I cannot help you with that. " * 400,
    "a list whose entries do not differ": "- Be kind to other people.\n" * 500,
    "a paragraph": (ROOT / "docs/decisions.md").read_text()[3000:3600] * 40,
    "a long paragraph": (ROOT / "docs/decisions.md").read_text()[5000:6300] * 30,
    "Korean": "죄송합니다. 다시 한번 말씀해 주시겠어요? " * 400,
    "Japanese": "申し訳ありません。もう一度お願いします。" * 400,
    "signs": "!!! ??? " * 4000,
    "after a good beginning": (ROOT / "README.md").read_text()[:6000] + " and so on" * 1500,
    "code": "```python\n" + "x = x + 1\n" * 3000,
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_ended(tokenizer: Tokenizer, name: str) -> None:
    found = ended_at(tokenizer, LOOPS[name])
    assert found is not None
    assert found >= BOUNDS[0][0]


def numbered() -> Iterator[str]:
    yield from (f"{n}. Item number {n} is like the one before it.\n" for n in range(1, 700))


REFRAIN = (
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\nLife is but a dream.\n\n"
)
WORDS = ["사람", "바다", "하늘", "나무", "노래", "마음", "이야기", "아침", "저녁", "도시", "기억", "바람"]
KANA = ["今日は", "明日は", "海が", "山が", "とても", "静かで", "きれいです。", "そして", "人々は", "歌います。"]


def shuffled(words: list[str], count: int, separator: str) -> str:
    rng = random.Random(3)
    return separator.join(rng.choice(words) for _ in range(count))


REAL = {
    "the English of this project": "".join((ROOT / f"docs/{n}.md").read_text() for n in ("decisions", "http-api")),
    "its code": "```python\n" + (ROOT / "engine/scheduler/scheduler.py").read_text() * 2 + "```",
    "a numbered list": "".join(numbered()),
    "a sentence a hundred times": "All work and no play makes Jack a dull boy.\n" * 100,
    "a table": "| n | n squared |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(600)),
    "an empty table": "| a | b | c |\n|---|---|---|\n" + "|   |   |   |\n" * 200,
    "zeros in code": "```python\nboard = [\n" + "    [0, 0, 0, 0, 0, 0, 0, 0],\n" * 100 + "]\n```",
    "zeros": "0, " * 1500,
    "a drawing": "\n".join(" " * (30 - n % 30) + "*" * (2 * (n % 30) + 1) for n in range(200)),
    "a line of signs": "-" * 4000 + "\n" + "=" * 4000,
    "a song": "".join(f"Verse {n}, and a line about the number {n * 7}.\n{REFRAIN}" for n in range(60)),
    "a refrain four times": REFRAIN * 4,
    "Korean": shuffled(WORDS, 4000, " "),
    "Japanese": shuffled(KANA, 3000, ""),
    "JSON": "[" + ", ".join(f'{{"id": {n}, "name": "user", "active": true}}' for n in range(300)) + "]",
    "bits": shuffled(["0", "1"], 5000, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_what_people_ask_for_is_left_alone(tokenizer: Tokenizer, name: str) -> None:
    assert ended_at(tokenizer, REAL[name]) is None


def test_the_period_is_the_shortest_and_exact() -> None:
    rng = random.Random(0)
    for _ in range(300):
        block = [rng.randrange(rng.choice([2, 2, 300])) for _ in range(rng.randrange(1, 30))]
        rounds = rng.randrange(3, 9)
        ids = (block * 40)[: len(block) * rounds + rng.randrange(len(block))]
        expected = next(p for p in range(1, len(block) + 1) if ids[p:] == ids[:-p])
        assert period_of(ids, rounds) == expected
        broken = [*ids]
        broken[rng.randrange(len(ids))] += 1000
        assert period_of(broken, rounds) is None or len(ids) < 4
    assert period_of([1 << 16, 0] * 50, 8) == 2  # a match between two ids is none


LOOP = b"again and " * 300


@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_sees_an_ordinary_end_and_the_reason_beside_it(served: Served, stream: bool) -> None:
    asking = asyncio.create_task(
        served.http.post("/v1/chat/completions", json={"messages": HELLO, "stream": stream}, timeout=30)
    )
    request = await served.engine.next_request()
    for byte in LOOP:
        request.deliver([byte])
    text = (await asking).text
    assert '"finish_reason":"stop","stop_reason":"repetition"' in text
    assert request.cancelled.is_set()
    assert '_requests_total{outcome="repetition"} 1.0' in (await served.http.get("/metrics")).text


@pytest.mark.parametrize("fields", [{"repetition_guard": False}, {"ignore_eos": True}])
async def test_a_client_can_turn_it_off(served: Served, fields: dict[str, bool]) -> None:
    asking = asyncio.create_task(served.client.chat.completions.create(model="x", messages=HELLO, extra_body=fields))
    request = await served.engine.next_request()
    request.deliver(LOOP, "stop")
    choice = (await asking).choices[0]
    assert (choice.message.content, choice.finish_reason) == (LOOP.decode(), "stop")
    assert not (choice.model_extra or {}).get("stop_reason")
