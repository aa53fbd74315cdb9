"""The first answer that people see: the embedded model with the persona and the sampling that the settings give it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from bot.settings import Settings
from tests.engine.server.process import EngineProcess


@pytest.mark.parametrize(("seeds", "sensible_at_least"), [(2, 2), pytest.param(20, 18, marks=pytest.mark.long)])
def test_it_says_who_it_is_in_nine_of_ten_seeds(seeds: int, sensible_at_least: int, tmp_path: Path) -> None:
    settings = Settings(_env_file=None)
    assert settings.uses_embedded_model
    dialog = [{"role": "system", "content": settings.persona}, {"role": "user", "content": "Hello, who are you?"}]
    sampling = {name: getattr(settings, name) for name in ("temperature", "top_p", "frequency_penalty")}
    body = {"messages": dialog, **sampling, "max_tokens": 100}
    flags = ("--model", settings.model, "--port", "0", "--max-seq-len", "1024", "--max-batch", "2")
    with EngineProcess(*flags, log=tmp_path / "log") as engine, httpx.Client(timeout=60) as http:
        url = f"{engine.ready().url}/v1/chat/completions"
        answers = [http.post(url, json={**body, "seed": seed}).raise_for_status().json() for seed in range(seeds)]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    ended = [answer["choices"][0]["finish_reason"] == "stop" for answer in answers]
    sensible = [
        done and len(text) < 250 and re.search(r"\bLlama\b", text) is not None
        for text, done in zip(texts, ended, strict=True)
    ]
    assert sum(sensible) >= sensible_at_least, texts
