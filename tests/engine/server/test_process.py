"""`python -m engine` as a process: golden replies over HTTP, sockets, shutdown and exit codes."""

import asyncio
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
import torch

from tests.engine.server.process import GOLDEN, EngineProcess, ask, children, golden, wait_until_exited

TINY = str(GOLDEN / "llama2-tiny")
HELLO = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    log = tmp_path_factory.mktemp("engine") / "log"
    with EngineProcess("--model", TINY, "--port", "0", log=log) as engine:
        yield engine.ready()


@pytest.fixture
def http(tiny: EngineProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tiny.url, timeout=30) as client:
        yield client


def test_greedy_replies_match_the_reference(http: httpx.Client) -> None:
    for dialog, reply in golden("llama2-tiny"):
        body = ask(http, dialog, max_tokens=24).json()
        assert body["choices"][0]["message"]["content"] == reply


def test_two_shards_on_one_rank(tmp_path: Path) -> None:
    socket_path = tmp_path / "private" / "engine.sock"
    flags = ("--model", str(GOLDEN / "llama2-tiny-mp2"), "--uds", str(socket_path))
    with EngineProcess(*flags, log=tmp_path / "log") as engine:
        engine.ready()
        assert engine.url == f"unix:{socket_path}"
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket_path)), base_url="http://engine") as http:
            for dialog, reply in golden("llama2-tiny-mp2"):
                assert ask(http, dialog, max_tokens=24).json()["choices"][0]["message"]["content"] == reply
        assert engine.terminate() < 5
        assert engine.process.returncode == 0
        assert not socket_path.exists()
        assert "Traceback" not in engine.output


def test_the_openai_client_streams_the_same_text(tiny: EngineProcess) -> None:
    with openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client:
        for dialog, reply in golden("llama2-tiny"):
            stream = client.chat.completions.create(
                model="any", messages=dialog, temperature=0, max_tokens=24, stream=True
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == reply


def test_the_seed_determines_a_sampled_reply(http: httpx.Client) -> None:
    def sampled(seed: int) -> str:
        body = ask(http, HELLO, temperature=1.0, seed=seed, max_tokens=12).json()
        text: str = body["choices"][0]["message"]["content"]
        return text

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_tokenize_counts_the_prompt_tokens_of_chat(http: httpx.Client) -> None:
    for dialog, _ in golden("llama2-tiny"):
        counted = http.post("/tokenize", json={"messages": dialog}).json()
        used = ask(http, dialog, max_tokens=1).json()["usage"]["prompt_tokens"]
        assert counted["count"] == used == len(counted["tokens"])
        assert counted["max_model_len"] == 4096
    text = "한 text"
    ids = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json()["prompt"] == text


def test_a_prompt_beyond_the_context(http: httpx.Client) -> None:
    response = ask(http, [{"role": "user", "content": "x" * 20_000}])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "4096" in error["message"]


@pytest.mark.parametrize("shape", ["uu", "sau", "suasu", "ssu", "s"])
def test_case_12_llama2_says_which_order_it_needs(http: httpx.Client, shape: str) -> None:
    roles = {"s": "system", "u": "user", "a": "assistant"}
    response = ask(http, [{"role": roles[letter], "content": "text"} for letter in shape])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_dialog")
    assert "user" in error["message"]


def test_case_12_a_reply_that_goes_on_keeps_its_first_space(http: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Well"}]
    ids = http.post("/tokenize", json={"messages": messages}).json()["tokens"]
    spaces = 0
    for seed in range(40):
        sampling = {"max_tokens": 3, "temperature": 2, "seed": seed}
        body = {"messages": messages, **sampling}
        reply = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
        alone = http.post("/v1/completions", json={"prompt": ids, **sampling}).json()["choices"][0]["text"]
        assert reply in (alone, f" {alone}")
        spaces += reply != alone
    assert spaces


def test_a_disconnect_cancels_the_request(tiny: EngineProcess, http: httpx.Client) -> None:
    def running() -> float:
        lines = http.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("guildllama_engine_running ")).split()[1])

    def becomes(count: float) -> bool:
        """Within about a second; the reply itself would take several."""
        pause = threading.Event()
        return any(running() == count or pause.wait(0.02) for _ in range(50))

    body = {"messages": HELLO, "stream": True, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while "content" not in next(lines):  # the first event comes before the first token
            pass
        assert becomes(1)
    assert becomes(0)


async def test_replies_are_the_same_in_a_batch(tiny: EngineProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0) as client:

        async def one(dialog: list[dict[str, str]], reply: str) -> bool:
            response = await client.chat.completions.create(model="any", messages=dialog, temperature=0, max_tokens=24)
            return response.choices[0].message.content == reply

        asked = [one(dialog, reply) for _ in range(4) for dialog, reply in golden("llama2-tiny")]
        assert all(await asyncio.gather(*asked))


def test_sigterm_in_the_middle_of_a_stream(tmp_path: Path) -> None:
    """The reply does not finish within the grace: its client gets an error, and the process exits in time."""
    with EngineProcess("--model", TINY, "--port", "0", log=tmp_path / "log") as engine:
        # The server answers before the model is loaded.
        with httpx.Client(base_url=engine.url) as http:
            early = http.get("/health")
        engine.ready()
        assert early.status_code in (200, 503)
        seconds: list[float] = []
        text = ""

        def read() -> None:
            nonlocal text
            stream = client.chat.completions.create(
                model="any", messages=HELLO, stream=True, extra_body={"ignore_eos": True}
            )
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                if text and not seconds:
                    seconds.append(0.0)
                    stopper.start()

        def stop() -> None:
            seconds[0] = engine.terminate()

        stopper = threading.Thread(target=stop)
        with (
            openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0, timeout=20) as client,
            pytest.raises(openai.APIError, match="shutting down"),
        ):
            read()
        stopper.join(10)
        assert 0 < seconds[0] < 5
        assert engine.process.returncode == 0
        assert "Traceback" not in engine.output


def test_sigterm_while_loading(tmp_path: Path) -> None:
    with EngineProcess("--model", TINY, "--port", "0", log=tmp_path / "log") as engine:
        assert engine.url
        assert engine.terminate() < 5
        assert engine.process.returncode == 0


def bad_start(tmp_path: Path, *flags: str) -> str:
    """Expects exit code 78 and one line of output; returns the line."""
    with EngineProcess(*flags, log=tmp_path / "log") as engine:
        assert engine.process.wait(60) == 78
        lines = [line for line in engine.output.splitlines() if "listening on" not in line and "loading" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("engine: ")
    return lines[0]


def test_wrong_settings_are_one_line_and_78(tmp_path: Path) -> None:
    assert "nothing there" in bad_start(tmp_path, "--model", str(tmp_path / "none"), "--port", "0")
    assert "--max-seq-len" in bad_start(tmp_path, "--max-seq-len", "1")
    assert "--max-seq-len" in bad_start(tmp_path, "--model", TINY, "--port", "0", "--max-seq-len", "100000")
    assert "NO_SUCH_KEY" in bad_start(tmp_path, "--api-key-env", "NO_SUCH_KEY")
    assert "--whatever" in bad_start(tmp_path, "--whatever")


def test_an_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in bad_start(tmp_path, "--model", TINY, "--port", str(taken.getsockname()[1]))
    with socket.socket(socket.AF_UNIX) as taken:
        path = tmp_path / "socket"
        taken.bind(str(path))
        taken.listen()
        assert "another process" in bad_start(tmp_path, "--model", TINY, "--uds", str(path))
    plain = tmp_path / "file"
    plain.write_text("x")
    assert "no socket" in bad_start(tmp_path, "--model", TINY, "--uds", str(plain))


def test_the_socket_file_of_a_killed_engine_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    assert path.is_socket()
    with EngineProcess("--model", TINY, "--uds", str(path), log=tmp_path / "log") as engine:
        engine.ready()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://engine") as http:
            assert http.get("/health").status_code == 200


def test_exit_with_parent(tmp_path: Path) -> None:
    flags = ("--model", TINY, "--port", "0", "--exit-with-parent")
    with EngineProcess(*flags, shell=True, log=tmp_path / "log") as engine:
        engine.ready()
        (child,) = children(engine.process.pid)
        engine.process.kill()
        wait_until_exited(child)


def test_weights_that_compute_nan(tmp_path: Path) -> None:
    model = tmp_path / "nan"
    shutil.copytree(TINY, model)
    weights = torch.load(model / "consolidated.00.pth", weights_only=True)
    weights["layers.1.feed_forward.w2.weight"][3, 5] = float("nan")
    torch.save(weights, model / "consolidated.00.pth")
    assert "NaN" in bad_start(tmp_path, "--model", str(model), "--port", "0")
