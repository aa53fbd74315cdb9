"""The engine as a real process: it is waited for, restarted when it dies, and never left behind."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bot.chat.chat_reply import ChatReply
from bot.chat.queue.waiting import Waiting
from bot.chat.reply import generation
from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.engine_process import supervisor
from bot.engine_process.cache_key import cache_key_environment
from bot.engine_process.command import engine_command
from bot.engine_process.guard import descendants
from bot.engine_process.supervisor import EngineProcess
from bot.errors import ConfigError, EngineUnavailable
from bot.settings import Settings, load_settings
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import ignore
from tests.bot.processes import pids_naming

ROOT = Path(__file__).resolve().parents[3]
FAKE = (sys.executable, "-m", "tests.fakes.engine", "--pace", "0.05")
KEY = DialogKey(1, 2)

Start = Callable[..., EngineProcess]


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HEALTH_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "GRACE_SECONDS", 2.0)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[EngineProcess] = []
    before = set(descendants())  # the fork server, for one

    def start_engine(*command: str) -> EngineProcess:
        engine = EngineProcess(Settings(_env_file=None), command=command or FAKE)
        engine.start()
        started.append(engine)
        return engine

    yield start_engine
    await asyncio.gather(*(engine.stop() for engine in started))
    assert set(descendants()) <= before


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def engine_pid(engine: EngineProcess) -> int:
    return next(pid for pid in pids_naming(str(engine._uds)) if pid != engine.pid)


async def say(chat: ChatService, text: str, started: asyncio.Event | None = None) -> ChatReply:
    async def on_delta(piece: str) -> None:
        if started is not None:
            started.set()

    return await chat.chat(ChatRequest(KEY, text), on_delta)


class TestCommand:
    def test_one_process(self):
        settings = Settings(
            _env_file=None,
            max_seq_len=512,
            quantize="int8",
            speculate="off",
            kv_host_memory="2GiB",
            chat_template="/t.jinja",
            engine_args="--max-batch 4",
        )
        command = engine_command(settings, Path("/run/x.sock"))
        assert command[:3] == [sys.executable, "-m", "engine"]
        flags = " ".join(command[3:])
        assert flags.startswith("--model smollm2 --uds /run/x.sock")
        assert "--stream-interval 0.05" in flags
        assert flags.endswith("--speculate off --kv-host-memory 2GiB --chat-template /t.jinja --max-batch 4")

    def test_several_gpus_go_through_torchruns_launcher_on_loopback(self):
        command = engine_command(Settings(_env_file=None, gpus=4, traces_url="http://x:4318"), Path("/run/x.sock"))
        assert command[command.index("--traces-url") + 1] == "http://x:4318/v1/traces"
        assert command[1:3] == ["-m", "torch.distributed.run"]
        assert "--standalone" in command
        assert command[command.index("--nproc-per-node") + 1] == "4"
        assert command[command.index("engine") - 1] == "-m"

    def test_the_engine_accepts_the_flags(self):
        from engine.server.args import ServeOptions, parse

        given = {"max_seq_len": 512, "device": "cpu", "quantize": "int8", "kv_host_memory": "0"}
        settings = Settings(_env_file=None, traces_url="http://x:4318", **given)
        command = engine_command(settings, Path("/run/x.sock"))
        assert isinstance(parse(command[3:]), ServeOptions)

    def test_cached_prompts_are_sealed_with_a_key_made_from_the_databases(self):
        from engine.server.args import ServeOptions, UsageError, parse

        keys = [base64.urlsafe_b64encode(bytes([number] * 32)).decode() for number in (1, 2)]
        settings = Settings(_env_file=None, encryption_keys=",".join(keys), kv_dir="/var/kv", kv_dir_size="1GiB")
        command, environment = engine_command(settings, Path("/run/x.sock")), cache_key_environment(settings)
        (key,) = environment.values()
        assert key not in " ".join(command)
        assert key not in keys
        assert cache_key_environment(Settings(_env_file=None, encryption_keys=keys[0], kv_dir="/kv")) == environment
        assert cache_key_environment(Settings(_env_file=None, encryption_keys=keys[1], kv_dir="/kv")) != environment
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(*environment.popitem())
            options = parse(command[3:])
            assert isinstance(options, ServeOptions)
            assert (options.kv_dir, options.kv_dir_size) == (Path("/var/kv"), "1GiB")
            assert options.kv_dir_key is not None
            assert base64.urlsafe_b64encode(options.kv_dir_key).decode() == key
            with pytest.raises(UsageError, match="32 bytes"):
                parse(command[3:])  # the key is no longer in the environment

    def test_without_a_key_nothing_is_cached_over_a_restart(self):
        from engine.server.args import UsageError, parse

        assert cache_key_environment(Settings(_env_file=None)) == {}
        with pytest.raises(ConfigError, match="GUILDLLAMA_KV_DIR: needs GUILDLLAMA_ENCRYPTION_KEYS"):
            load_settings(env_file=None, kv_dir="/kv")
        with pytest.raises(UsageError, match="sealed or not at all"):
            parse(["--kv-dir", "/kv"])
        with pytest.raises(ConfigError, match="not a Fernet key"):
            cache_key_environment(Settings(_env_file=None, kv_dir="/kv", encryption_keys="short"))


class TestLife:
    async def test_ready_then_gone(self, start: Start):
        engine = start()
        assert engine.client.state == "loading"
        await asyncio.wait_for(engine.wait_ready(), 20)
        assert engine.client.state == "ready"
        assert await engine.client.model() == "fake-model"
        folder = engine._folder.path
        assert folder.stat().st_mode & 0o777 == 0o700
        await engine.stop()
        assert pids_naming(str(folder)) == []
        assert not folder.exists()

    async def test_killed_in_the_middle_of_a_reply(self, start: Start, database: Database):
        engine = start()
        settings = Settings(_env_file=None)
        chat = ChatService(database=database, engine=engine.client, settings=settings)
        await asyncio.wait_for(engine.wait_ready(), 20)
        assert (await say(chat, "hello")).text == "You said: hello"
        started = asyncio.Event()
        running = asyncio.create_task(say(chat, "a long one", started))
        await asyncio.wait_for(started.wait(), 10)
        os.kill(engine_pid(engine), signal.SIGKILL)
        with pytest.raises(EngineUnavailable) as caught:
            await asyncio.wait_for(running, 5)
        assert "stopped in the middle" in caught.value.user_message
        await until(lambda: engine.client.state == "restarting")
        with pytest.raises(EngineUnavailable):
            await say(chat, "too early")
        await asyncio.wait_for(engine.wait_ready(), 20)
        reply = await say(chat, "again")
        assert (reply.text, reply.pairs_in_prompt) == ("You said: again", 1)
        assert engine.restarts == 1

    async def test_while_it_loads_a_message_waits_and_says_so(self, start: Start, database: Database):
        engine = start(*FAKE, "--load-seconds", "1")
        chat = ChatService(database=database, engine=engine.client, settings=Settings(_env_file=None))
        seen: list[Waiting] = []
        request = ChatRequest(KEY, "hello", on_waiting=seen.append)
        running = asyncio.create_task(chat.chat(request, ignore))
        await until(lambda: bool(seen))
        status = seen[0].status()
        assert status is not None
        assert status.loading
        reply = await asyncio.wait_for(running, 20)
        assert reply.text == "You said: hello"
        assert seen[0].status() is None

    async def test_after_a_long_load_the_answer_says_so(
        self, start: Start, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(generation, "MAX_LOADING", 0.5)
        engine = start(*FAKE, "--load-seconds", "30")
        chat = ChatService(database=database, engine=engine.client, settings=Settings(_env_file=None))
        with pytest.raises(EngineUnavailable) as caught:
            await say(chat, "hello")
        assert "still loading" in caught.value.user_message

    async def test_an_unhealthy_one_is_restarted(self, start: Start):
        engine = start()
        await asyncio.wait_for(engine.wait_ready(), 20)
        unhealthy = engine_pid(engine)
        os.kill(unhealthy, signal.SIGUSR1)
        await until(lambda: engine.restarts == 1)
        await asyncio.wait_for(engine.wait_ready(), 20)
        assert engine_pid(engine) != unhealthy

    async def test_one_that_dies_at_once_is_restarted_with_growing_pauses(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", (0.0, 0.0, 60.0))
        engine = start(sys.executable, "-c", "raise SystemExit(3)")
        await until(lambda: engine.restarts == 3)
        await asyncio.sleep(0.5)
        assert engine.restarts == 3
        assert not engine.ready


class TestPauses:
    """The pause after a crash is for crashes that follow each other."""

    LONG = (60.0,)

    async def test_attack_an_engine_that_completed_a_reply_restarts_at_once(
        self, start: Start, database: Database, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", self.LONG)
        engine = start()
        chat = ChatService(database=database, engine=engine.client, settings=Settings(_env_file=None))
        for restarts in (1, 2):
            await asyncio.wait_for(engine.wait_ready(), 20)
            assert (await say(chat, "hello")).text == "You said: hello"
            os.kill(engine_pid(engine), signal.SIGKILL)
            await until(lambda done=restarts: engine.restarts == done)
        await asyncio.wait_for(engine.wait_ready(), 20)

    @pytest.mark.parametrize(("seconds_ready", "restarted"), [(0.5, True), (60.0, False)])
    async def test_attack_one_that_was_ready_for_long_restarts_at_once(
        self, start: Start, monkeypatch: pytest.MonkeyPatch, seconds_ready: float, restarted: bool
    ):
        monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", self.LONG)
        monkeypatch.setattr(supervisor, "STEADY_SECONDS", seconds_ready)
        engine = start()
        await asyncio.wait_for(engine.wait_ready(), 20)
        await asyncio.sleep(0.6)
        first = engine.pid
        os.kill(engine_pid(engine), signal.SIGKILL)
        await until(lambda: engine.restarts == 1)
        await asyncio.sleep(0.3)
        assert (engine.pid != first) == restarted

    async def test_attack_a_long_load_is_not_a_good_life(self, start: Start, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(supervisor, "BACKOFF_SECONDS", self.LONG)
        monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.2)
        engine = start(sys.executable, "-c", "import time; time.sleep(0.6); raise SystemExit(3)")
        await until(lambda: engine.restarts == 1)
        await asyncio.sleep(0.3)
        assert engine.restarts == 1
        assert pids_naming(str(engine._uds)) == []


class TestRefused:
    @pytest.mark.parametrize(
        "script",
        [
            "print('engine: model.gguf: no such file for --device', flush=True); raise SystemExit(78)",
            # torchrun reports the exit code of a rank, and exits with its own.
            "print('engine: model.gguf: no such file for --device');"
            "print('E1 failed (exitcode: 78) local_rank: 0 (pid: 9)');"
            "print('=\\n' * 60);"
            "raise SystemExit(1)",
        ],
    )
    async def test_a_bad_setting_is_reported_once_and_not_tried_again(self, start: Start, script: str):
        engine = start(sys.executable, "-c", script)
        with pytest.raises(ConfigError) as caught:
            await asyncio.wait_for(engine.wait_ready(), 20)
        assert "model.gguf: no such file for GUILDLLAMA_DEVICE" in caught.value.line
        assert "GUILDLLAMA_MODEL" in caught.value.line
        assert "\n" not in caught.value.line
        assert (await engine.failed()) is caught.value
        assert engine.restarts == 0


class TestNoOrphans:
    TREE = (
        "import subprocess, sys, time, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', *sys.argv[1:]], "
        "start_new_session=True)\n"
        "time.sleep(600)\n"
    )

    async def test_ranks_with_sessions_of_their_own_and_deaf_to_sigterm(self, start: Start):
        engine = start(sys.executable, "-c", self.TREE)
        await until(lambda: len(pids_naming(str(engine._uds))) == 3)
        await engine.stop()
        assert pids_naming(str(engine._uds)) == []

    @pytest.mark.parametrize("stopped", ["guard", "all"])
    async def test_attack_an_orderly_end_does_not_wait_for_what_is_stopped(self, start: Start, stopped: str):
        engine = start()
        await asyncio.wait_for(engine.wait_ready(), 20)
        pids = pids_naming(str(engine._uds))
        for pid in pids if stopped == "all" else [engine.pid or 0]:
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        await engine.stop()
        assert time.monotonic() - started < 1.5  # less than GRACE_SECONDS
        assert pids_naming(str(engine._uds)) == []

    async def test_a_launcher_that_is_killed_leaves_no_rank(self, start: Start):
        engine = start(sys.executable, "-c", self.TREE)
        await until(lambda: len(pids_naming(str(engine._uds))) == 3)
        before = set(pids_naming(str(engine._uds)))
        launcher = min(before - {engine.pid or 0})
        os.kill(launcher, signal.SIGKILL)
        await until(lambda: not before & set(pids_naming(str(engine._uds))))

    async def test_the_bot_is_killed(self, tmp_path: Path):
        program = (
            "import asyncio, sys\n"
            "from bot.settings import Settings\n"
            "from bot.engine_process.supervisor import EngineProcess\n"
            "async def main():\n"
            "    engine = EngineProcess(Settings(_env_file=None), command=sys.argv[1:])\n"
            "    engine.start()\n"
            "    await engine.wait_ready()\n"
            "    print(engine._folder.path, flush=True)\n"
            "    await asyncio.sleep(600)\n"
            "asyncio.run(main())\n"
        )
        bot = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *FAKE, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert bot.stdout is not None
        folder = (await asyncio.wait_for(bot.stdout.readline(), 30)).decode().strip()
        assert len(pids_naming(folder)) == 2
        bot.kill()
        await bot.wait()
        await until(lambda: not pids_naming(folder))
