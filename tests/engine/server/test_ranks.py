"""Two ranks under torchrun: the same replies, and what happens when a rank or the launcher is killed."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.engine.server.greedy_oracle import check_penalized_reply
from tests.engine.server.process import GOLDEN, EngineProcess, ask, children, golden, wait_until_exited

MODEL = str(GOLDEN / "llama2-tiny-mp2")
HELLO = [{"role": "user", "content": "Hello?"}]
ERROR_TIMEOUT = 10.0  # seconds from the failure of a rank to the client's error


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    log = tmp_path_factory.mktemp("engine") / "log"
    with EngineProcess("--model", MODEL, "--port", "0", ranks=2, log=log) as engine:
        yield engine.ready()


@pytest.mark.parametrize("name", ["llama2-tiny-mp2"])
def test_greedy_replies_match_the_reference(pair: EngineProcess, name: str) -> None:
    with httpx.Client(base_url=pair.url, timeout=60) as http:
        for dialog, reply in golden(name):
            assert ask(http, dialog, max_tokens=24).json()["choices"][0]["message"]["content"] == reply
        memory = [line for line in http.get("/metrics").text.splitlines() if "rank_memory_bytes{" in line]
        assert len(memory) == 2
        assert all(float(line.split()[1]) > 1e6 for line in memory)


def test_penalties_and_log_probabilities_on_two_ranks(pair: EngineProcess) -> None:
    with httpx.Client(base_url=pair.url, timeout=60) as http:
        check_penalized_reply(http)


def test_a_reply_of_a_form_on_two_ranks(pair: EngineProcess) -> None:
    body = {"prompt": "Hello", "structured_outputs": {"regex": "[a-f]{3}-[0-9]{2}"}, "seed": 3, "n": 3}
    with httpx.Client(base_url=pair.url, timeout=60) as http:
        choices = http.post("/v1/completions", json=body).json()["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * 3
    assert all(re.fullmatch("[a-f]{3}-[0-9]{2}", choice["text"]) for choice in choices)


def test_one_shard_on_two_ranks_and_sigterm(tmp_path: Path) -> None:
    flags = ("--model", str(GOLDEN / "llama2-tiny"), "--port", "0")
    with EngineProcess(*flags, ranks=2, log=tmp_path / "log") as engine:
        engine.ready()
        ranks = [engine.rank(0), engine.rank(1)]
        with httpx.Client(base_url=engine.url, timeout=60) as http:
            for dialog, reply in golden("llama2-tiny"):
                assert ask(http, dialog, max_tokens=24).json()["choices"][0]["message"]["content"] == reply
        assert engine.terminate() < 5
        for pid in ranks:
            wait_until_exited(pid, 1)


def kill_rounds(tmp_path: Path, rounds: int) -> None:
    """Each round kills rank 1 in the middle of a stream: the client gets an error, and the group restarts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ("--model", MODEL, "--port", str(port))
    with EngineProcess(*flags, ranks=2, restarts=rounds, log=tmp_path / "log") as engine:
        base = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=60)
        with client, httpx.Client(base_url=base, timeout=60) as http:
            for number in range(rounds):
                engine.ready(number + 1)
                seconds = kill_in_a_stream(client, engine)
                assert seconds < ERROR_TIMEOUT
            engine.ready(rounds + 1)
            for dialog, reply in golden("llama2-tiny-mp2"):
                assert ask(http, dialog, max_tokens=24).json()["choices"][0]["message"]["content"] == reply
            assert f"guildllama_engine_restarts_total {rounds}.0" in http.get("/metrics").text
        ranks = children(engine.process.pid)
        engine.terminate()
        for pid in ranks:
            wait_until_exited(pid, 1)


def kill_in_a_stream(client: openai.OpenAI, engine: EngineProcess) -> float:
    """Returns the seconds from the kill to the client's error."""
    victim = engine.rank(1)
    killed = 0.0
    stream = client.chat.completions.create(
        model="any", messages=HELLO, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    chunks = 0
    try:
        for _ in stream:
            chunks += 1
            if chunks == 5:
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()
    except (openai.APIError, httpx.HTTPError):
        return time.monotonic() - killed
    raise AssertionError(f"the stream ended without an error after {chunks} chunks")


def test_fault_23_a_killed_rank_is_an_error_and_a_restart(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 2)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_fault_23_twenty_killed_ranks(tmp_path: Path) -> None:
    kill_rounds(tmp_path, 20)


@pytest.mark.parametrize(
    ("victim", "number"), [(1, signal.SIGSTOP), pytest.param(0, signal.SIGKILL, marks=pytest.mark.long)]
)
def test_a_rank_that_hangs_and_rank_0_that_dies(victim: int, number: signal.Signals, tmp_path: Path) -> None:
    """On a Unix socket, whose file the restarted engine replaces."""
    path = tmp_path / "socket"
    with EngineProcess("--model", MODEL, "--uds", str(path), ranks=2, restarts=1, log=tmp_path / "log") as engine:
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as http:
            engine.ready()
            body = {"messages": HELLO, "stream": True, "ignore_eos": True}
            started = 0.0
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                text = ""
                with contextlib.suppress(httpx.HTTPError):
                    for line in response.iter_lines():
                        text += line
                        if not started and text.count("content") > 5:
                            os.kill(engine.rank(victim), number)
                            started = time.monotonic()
            assert time.monotonic() - started < ERROR_TIMEOUT
            assert "[DONE]" not in text
            assert ('"error"' in text) == (victim != 0)
            engine.ready(2)
            dialog, reply = next(golden("llama2-tiny-mp2"))
            assert ask(http, dialog, max_tokens=24).json()["choices"][0]["message"]["content"] == reply


def test_ranks_exit_with_their_launcher(tmp_path: Path) -> None:
    with EngineProcess("--model", MODEL, "--port", "0", ranks=2, log=tmp_path / "log") as engine:
        engine.ready()
        ranks = [engine.rank(0), engine.rank(1)]
        engine.process.kill()
        for pid in ranks:
            wait_until_exited(pid)


def test_a_config_error_ends_all_ranks(tmp_path: Path) -> None:
    flags = ("--model", MODEL, "--port", "0", "--max-seq-len", "100000")
    with EngineProcess(*flags, ranks=2, log=tmp_path / "log") as engine:
        assert engine.process.wait(60) != 0
        assert "engine: --max-seq-len: expected" in engine.output
        assert "exitcode: 78" in "".join(engine.output.replace(" ", "")).replace("exitcode:", "exitcode: ")


@pytest.mark.long
def test_a_world_size_that_does_not_divide_the_heads(tmp_path: Path) -> None:
    with EngineProcess("--model", MODEL, "--port", "0", ranks=3, log=tmp_path / "log") as engine:
        assert engine.process.wait(90) != 0
        assert "engine: --nproc-per-node: expected one of 1, 2, 4" in engine.output


def test_a_batch_of_requests_on_two_ranks(pair: EngineProcess) -> None:
    dialogs = list(golden("llama2-tiny-mp2")) * 2
    found: dict[int, str] = {}

    def one(number: int) -> None:
        with httpx.Client(base_url=pair.url, timeout=60) as http:
            body = ask(http, dialogs[number][0], max_tokens=24).json()
            found[number] = body["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(dialogs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {number: reply for number, (_, reply) in enumerate(dialogs)}
