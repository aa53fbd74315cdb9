"""Replies over HTTP are the same with drafts: streamed text, stop strings, log-probabilities, usage."""

import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.engine.server.process import EngineProcess
from tests.engine.tiny import write_checkpoint

PROMPT = [1, *range(24, 36), *range(24, 30)]
BODIES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "logprobs": 2},
    {"temperature": 0.3, "seed": 4, "n": 2},
    {"temperature": 0, "frequency_penalty": 0.5},
]


def replies(http: httpx.Client, bodies: list[dict[str, Any]]) -> list[Any]:
    """Each request as a whole, then as a stream, without what is new in each response."""
    found: list[Any] = []
    for body in bodies:
        body = {"prompt": PROMPT, "max_tokens": 60, **body}
        whole = http.post("/v1/completions", json=body).raise_for_status().json()
        texts: dict[int, str] = {}
        reasons: dict[int, str] = {}
        tokens: list[str] = []
        request = http.stream("POST", "/v1/completions", json={**body, "stream": True})
        with request as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    index = choice["index"]
                    texts[index] = texts.get(index, "") + choice["text"]
                    reasons[index] = choice["finish_reason"] or reasons.get(index, "")
                    if choice.get("logprobs"):
                        tokens += choice["logprobs"]["tokens"]
        for choice in whole["choices"]:
            assert texts[choice["index"]] == choice["text"]
            assert reasons[choice["index"]] == choice["finish_reason"]
            if choice.get("logprobs"):
                assert choice["logprobs"]["tokens"] == tokens
        found.append([[choice["text"], choice["finish_reason"]] for choice in whole["choices"]] + [whole["usage"]])
    return found


def test_replies_over_http_are_the_same_with_drafts(tmp_path: Path) -> None:
    model = str(write_checkpoint(tmp_path / "model", heads=4, kv_heads=2, cycle=12))
    found = []
    for mode in ("off", "ngram", model):
        flags = ("--model", model, "--port", "0", "--speculate", mode, "--no-repetition-guard", "--max-seq-len", "256")
        with (
            EngineProcess(*flags, log=tmp_path / f"log{len(found)}") as engine,
            httpx.Client(base_url=engine.ready().url, timeout=60) as http,
        ):
            first = replies(http, BODIES[:1])[0][0][0]
            stop = first[len(first) // 2 :][:5]
            found.append(replies(http, [*BODIES, {"temperature": 0, "stop": [stop]}]))
            metrics = http.get("/metrics").text
        accepted = re.search(r"^guildllama_engine_accepted_draft_tokens_total (\S+)", metrics, re.MULTILINE)
        assert accepted is not None
        # A draft model that takes as long as the model itself pays only where a measurement went wrong.
        assert mode == model or (float(accepted[1]) > 100) == (mode == "ngram")
    # Which prompt tokens were cached does not depend on the drafts.
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert found[0][-1][0][1] == "stop"
    assert stop not in found[0][-1][0][0]
