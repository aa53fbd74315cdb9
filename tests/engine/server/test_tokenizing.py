"""Long texts: the same ids in parts, a bound without encoding, and a server that answers others meanwhile."""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import httpx
import pytest

from engine.checkpoint import open_checkpoint
from engine.server import tokenizing
from engine.server.protocol.request_body import parse_json
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.piecewise import MAX_PART_CHARS, PART_CHARS, PiecewiseEncoder
from tests.engine.checkpoint import vocabularies as v
from tests.engine.server.conftest import Served
from tests.engine.server.process import GOLDEN, EngineProcess
from tests.engine.server.scripted_engine import MAX_CONTEXT, ByteTokenizer

JSON = {"content-type": "application/json"}
TEXTS = [
    "The quick brown fox, isn't it?  Two spaces;\n\n\ttabs. ",
    "Größe über alles  a b c d e 12345 67 x 8 9 ",
    "東京は日本の首都です。 Tokyo is it's capital \r\n\r\n def f(x): return  x ",
    "emoji 🐱🐶 and e\u0301 accents \u00a0 nbsp A b C d ",
]


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tokenizers(path: Path) -> dict[str, Tokenizer]:
    return {
        "smollm2": open_checkpoint("smollm2").tokenizer(),
        "sentencepiece": open_checkpoint(GOLDEN / "llama2-tiny").tokenizer(),
        "tiktoken": v.tiktoken_tokenizer(),
        "byte_level": v.byte_level_json(path / "tokenizer.json"),
        "bytes": ByteTokenizer(),
    }


@pytest.mark.parametrize("name", ["smollm2", "sentencepiece", "tiktoken", "byte_level", "bytes"])
def test_parts_have_the_ids_of_the_whole(name: str, tmp_path: Path) -> None:
    tokenizer = tokenizers(tmp_path)[name]
    encoder = PiecewiseEncoder(tokenizer)
    for text in TEXTS:
        long = text * (3 * PART_CHARS // len(text))
        # tiktoken's own wrapper cuts texts of 50,000 characters anywhere
        whole = long[:49_000] if name == "tiktoken" else long
        assert encoder.encode(whole) == tokenizer.encode(whole)
        assert len(list(encoder._parts(long))) > 1
        ids = encoder.encode(long)
        assert encoder.min_tokens(len(long.encode())) <= len(ids)
        assert tokenizer.decode(ids) == tokenizer.decode(tokenizer.encode(long))


@pytest.mark.parametrize("text", ["x" * 700_000, "東京" * 300_000, " " * 700_000, "1 2 3 " * 120_000])
def test_a_text_without_a_place_to_cut_is_encoded_too(text: str) -> None:
    encoder = PiecewiseEncoder(open_checkpoint("smollm2").tokenizer())
    assert all(0 < len(part) <= MAX_PART_CHARS for part in encoder._parts(text))
    assert "".join(encoder._parts(text)) == text


def test_a_tokenizer_that_normalizes_promises_no_bound_by_its_vocabulary() -> None:
    class Normalizing(ByteTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(" ".join(text.split()))

    encoder = PiecewiseEncoder(Normalizing())
    assert encoder.max_piece_bytes == 1024
    assert PiecewiseEncoder(ByteTokenizer()).max_piece_bytes == 1


async def test_attack_a_text_far_beyond_the_context_is_refused_unencoded(
    roomy: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(_self: object, text: str) -> list[int]:
        raise AssertionError(f"{len(text)} characters were encoded")

    monkeypatch.setattr(ByteTokenizer, "encode", encode)
    monkeypatch.setattr("tests.engine.server.scripted_engine.PlainFormat.encode", encode)
    size = tokenizing.MIN_REFUSED_BYTES
    for path, body, param in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * size}]}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "ü" * (size // 40)}] * 21}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "x" * size}]}, "messages"),
        ("/v1/completions", {"prompt": "x" * size}, "prompt"),
        ("/tokenize", {"prompt": "x" * size}, "prompt"),
        ("/v1/completions", {"prompt": [7] * 100_000}, "prompt"),
    ):
        response = await roomy.http.post(path, json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        assert f" {MAX_CONTEXT} tokens" in error["message"]


async def test_attack_long_texts_wait_for_each_other_and_only_so_many(
    roomy: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = most = 0

    def encode(_self: object, text: str) -> list[int]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.05)
        at_once -= 1
        return [0]

    monkeypatch.setattr(tokenizing, "MAX_LONG_WAITING", 5)
    monkeypatch.setattr(PiecewiseEncoder, "encode", encode)
    body = {"prompt": "x" * (tokenizing.LONG_TEXT_CHARS + 1)}
    responses = await asyncio.gather(*(roomy.http.post("/tokenize", json=body) for _ in range(8)))
    assert sorted(response.status_code for response in responses) == [200] * 5 + [429] * 3
    assert most == 1
    assert (await roomy.http.post("/tokenize", json=body)).status_code == 200


async def test_attack_long_prompts_leave_the_server_responsive(tmp_path: Path) -> None:
    """Today's tokenizer takes half a second for each of these; holding Python's lock it took three times that."""
    text = "The capital of France is Paris and the engine answers hello world. " * 7500
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 1}).encode()
    flags = ("--model", "smollm2", "--port", "0", "--max-batch", "1")
    with EngineProcess(*flags, log=tmp_path / "log") as engine:
        engine.ready()
        latencies: list[float] = []
        async with httpx.AsyncClient(base_url=engine.url, timeout=120) as http:
            posts = [
                asyncio.create_task(http.post("/v1/chat/completions", content=body, headers=JSON)) for _ in range(8)
            ]
            while not all(post.done() for post in posts):
                started = time.monotonic()
                assert (await http.get("/health")).status_code == 200
                latencies.append(time.monotonic() - started)
                await asyncio.sleep(0.01)
            statuses = {post.result().status_code for post in posts}
        memory = resident_bytes(engine.process.pid)
    assert statuses == {400}
    assert len(latencies) > 10  # the server was asked while it encoded
    latencies.sort()
    assert latencies[int(len(latencies) * 0.9)] < 0.25
    assert latencies[-1] < 1.0
    assert memory < 2 << 30


async def test_attack_very_many_empty_messages_leave_the_server_responsive(
    roomy: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their texts are short, their marks are not."""
    threads: set[str] = set()

    def encode(_self: object, messages: list[object], **_options: object) -> list[int]:
        threads.add(threading.current_thread().name)
        return [0]

    monkeypatch.setattr("tests.engine.server.scripted_engine.PlainFormat.encode", encode)
    for number in (500, 5000):
        body = {"messages": [{"role": "user", "content": ""}] * number}
        assert (await roomy.http.post("/tokenize", json=body)).status_code == 200
    assert threads
    assert all(name.startswith("tokenize") for name in threads)


async def test_attack_token_ids_are_bounded_and_encoded_in_parts(roomy: Served) -> None:
    response = await roomy.http.post("/detokenize", json={"tokens": [65] * (MAX_CONTEXT + 1)})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tokens")
    response = await roomy.http.post("/tokenize", json={"prompt": "x" * 100_000, "add_special_tokens": False})
    assert response.json()["tokens"] == [ord("x")] * 100_000
    assert list(response.json()) == ["count", "max_model_len", "tokens", "token_strs"]
    response = await roomy.http.post("/tokenize", json={"prompt": "", "add_special_tokens": False})
    assert response.json()["tokens"] == []


async def test_attack_a_large_body_is_parsed_beside_the_event_loop(
    roomy: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def parse(body: bytes) -> dict[str, object]:
        threads.append(threading.current_thread().name)
        return parse_json(body)

    monkeypatch.setattr("engine.server.app.parse_json", parse)
    for size, thread in ((100, "MainThread"), (1_000_000, "parse_0")):
        response = await roomy.http.post("/tokenize", json={"prompt": "", "metadata": "x" * size})
        assert (response.status_code, threads.pop()) == (200, thread)
