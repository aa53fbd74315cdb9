"""`python -m engine --kv-dir` as a process: dialogs are warm after SIGTERM and a new start, on one rank and on two."""

import base64
from pathlib import Path

import httpx
import pytest

from tests.engine.server.process import GOLDEN, EngineProcess, ask

KEY = {"CACHE_KEY": base64.urlsafe_b64encode(bytes(range(32))).decode()}
DIALOG = [{"role": "user", "content": "Tell me of the sea, of ships, of storms and of the people who live from it."}]


@pytest.mark.parametrize(
    ("model", "ranks"), [("llama2-tiny", 0), pytest.param("llama2-tiny-mp2", 2, marks=pytest.mark.long)]
)
def test_a_dialog_is_warm_after_an_orderly_stop(tmp_path: Path, model: str, ranks: int) -> None:
    flags = ("--model", str(GOLDEN / model), "--port", "0", "--kv-dir", str(tmp_path / "kv"))
    flags += ("--kv-dir-key-env", "CACHE_KEY", "--kv-dir-size", "64MiB")
    answers, cached = [], []
    for start in range(2):
        with EngineProcess(*flags, log=tmp_path / f"log{start}", ranks=ranks, env=KEY) as engine:
            with httpx.Client(base_url=engine.ready().url, timeout=30) as http:
                for salt in ("a", "b"):
                    body = ask(http, DIALOG, max_tokens=8, cache_salt=salt).json()
                    answers.append(body["choices"][0]["message"]["content"])
                    cached.append(body["usage"]["prompt_tokens_details"]["cached_tokens"])
                if start:
                    assert http.post("/cache/erase", json={"cache_salt": "a"}).status_code == 200
                    assert "guildllama_engine_kv_reloaded_tokens_total 0.0" not in http.get("/metrics").text
            assert engine.terminate() < 8
            assert ranks or "Traceback" not in engine.output  # torchrun shows one of its own
            assert KEY["CACHE_KEY"] not in engine.output
    assert len(set(answers)) == 1
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) >= 16


def test_a_key_is_needed(tmp_path: Path) -> None:
    """One line, and no file."""
    flags = ("--model", str(GOLDEN / "llama2-tiny"), "--port", "0", "--kv-dir", str(tmp_path / "kv"))
    for more, env, reason in (
        ((), {}, "give --kv-dir-key-env NAME"),
        (("--kv-dir-key-env", "CACHE_KEY"), {"CACHE_KEY": "short"}, "CACHE_KEY must be 32 bytes"),
        (("--kv-dir-key-env", "CACHE_KEY", "--kv-dir-size", "much"), KEY, "--kv-dir-size"),
    ):
        with EngineProcess(*flags, *more, log=tmp_path / "log", env=env) as engine:
            assert engine.process.wait(60) == 78
            assert reason in engine.output
            assert not (tmp_path / "kv").exists()
