"""What greedy sampling must choose, from nothing but the log-probabilities that the server returns."""

from collections import Counter
from typing import Any

import httpx

FREQUENCY, PRESENCE, BIAS = 1.5, 0.75, 4.0


def check_penalized_reply(http: httpx.Client, max_tokens: int = 24) -> None:
    """Raises AssertionError unless a reply with penalties and bias is the one that its log-probabilities demand."""
    base = {"prompt": "Hello", "temperature": 0, "max_tokens": max_tokens, "logprobs": 20, "ignore_eos": True}
    plain = _tokens(http, base)
    assert plain == _tokens(http, {**base, "min_p": 0.5, "top_k": 1})  # which change no greedy reply
    favourite = http.post("/tokenize", json={"prompt": "a", "add_special_tokens": False}).json()["tokens"][-1]
    fields = {"frequency_penalty": FREQUENCY, "presence_penalty": PRESENCE, "logit_bias": {str(favourite): BIAS}}
    found = http.post("/v1/completions", json={**base, **fields}).json()["choices"][0]["logprobs"]
    assert found["tokens"] != plain
    (name,) = _tokens(http, {**base, "max_tokens": 1, "logit_bias": {str(favourite): 100}})
    counts: Counter[str] = Counter()
    for token, top in zip(found["tokens"], found["top_logprobs"], strict=True):
        # The likeliest 20 hold the choice, unless the favourite, which they may lack, was chosen for its bias.
        scores = {
            each: logprob - FREQUENCY * counts[each] - PRESENCE * (counts[each] > 0) + BIAS * (each == name)
            for each, logprob in top.items()
        }
        assert scores[token] >= max(scores.values()) - 1e-3
        counts[token] += 1


def _tokens(http: httpx.Client, body: dict[str, Any]) -> list[str]:
    tokens: list[str] = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["tokens"]
    return tokens
