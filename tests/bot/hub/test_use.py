"""A model by its name: in GUILDLLAMA_MODEL, in the list, and in the line that recommends one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from huggingface_hub import constants

from bot.cli import main
from bot.engine_process.command import engine_command
from bot.engine_process.supervisor import EngineProcess
from bot.errors import ConfigError
from bot.hub import hint
from bot.hub.catalogue import CATALOGUE, HubFile, find
from bot.hub.machine import Gpu, Machine
from bot.hub.resolve import resolve_drafts, resolve_model
from bot.hub.store import ModelStore, PulledModel
from bot.settings import Settings
from tests.fakes.hub import FakeHub

GB = 10**9


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)


def pulled(folder: Path, name: str) -> Path:
    """As if `name` had been pulled, with a small file of its name and sum."""
    model = find(name)
    assert model is not None
    assert model.file is not None
    assert model.revision is not None
    store = ModelStore(folder)
    file = HubFile(model.file.path, 4, model.file.sha256)
    with store.locked(name):
        path = store.folder_of(name) / file.path
        path.write_bytes(b"GGUF")
        store.save(PulledModel(name, model.repo, model.revision, True, file))
    return path


class TestModelSetting:
    def test_the_embedded_model_and_paths_are_left_alone(self, tmp_path: Path):
        for model in ("smollm2", str(tmp_path), "/models/x.gguf", "./x", "~/x", "x.gguf"):
            assert resolve_model(settings(model=model)) == model

    def test_a_name_that_is_here(self, tmp_path: Path):
        path = pulled(tmp_path, "qwen3-4b")
        chosen = settings(model="Qwen3-4B", models_dir=str(tmp_path))
        assert resolve_model(chosen) == str(path)
        command = engine_command(chosen, tmp_path / "x.sock")
        assert command[command.index("--model") + 1] == str(path)

    def test_a_folder_of_that_name_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        Path("qwen3-4b").mkdir()
        assert resolve_model(settings(model="qwen3-4b")) == "qwen3-4b"

    def test_a_name_that_is_not_here_says_the_command(self, tmp_path: Path):
        with pytest.raises(ConfigError) as refused:
            resolve_model(settings(model="qwen3-4b", models_dir=str(tmp_path)))
        assert refused.value.line == (
            "GUILDLLAMA_MODEL: qwen3-4b is not here yet. `guildllama models pull qwen3-4b` fetches it (2.5 GB)."
        )

    def test_a_file_that_lost_its_end_is_not_here(self, tmp_path: Path):
        pulled(tmp_path, "qwen3-4b").write_bytes(b"GG")
        with pytest.raises(ConfigError, match="not fully here"):
            resolve_model(settings(model="qwen3-4b", models_dir=str(tmp_path)))

    def test_a_draft_model_is_named_in_the_same_way(self, tmp_path: Path):
        path = pulled(tmp_path, "qwen3-4b")
        chosen = settings(speculate="Qwen3-4B", models_dir=str(tmp_path))
        command = engine_command(chosen, tmp_path / "x.sock")
        assert command[command.index("--speculate") + 1] == str(path)
        assert resolve_drafts(settings(speculate="NGRAM")) == "ngram"
        with pytest.raises(ConfigError) as refused:
            resolve_drafts(settings(speculate="ngramm"))
        assert refused.value.line.startswith("GUILDLLAMA_SPECULATE: 'ngramm' is neither a file or folder nor a model")

    def test_a_name_that_nobody_knows(self):
        with pytest.raises(ConfigError, match=r"Did you mean qwen3-4b"):
            resolve_model(settings(model="qwen3_4b"))

    async def test_the_engine_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with pytest.raises(ConfigError):
            EngineProcess(settings(model="qwen3-4b", models_dir=str(tmp_path / "none")))
        assert os.listdir(tmp_path) == []

    def test_a_records_names_stay_in_the_folder(self, tmp_path: Path):
        path = pulled(tmp_path, "qwen3-4b")
        record = tmp_path / "qwen3-4b" / "pulled.json"
        record.write_text(record.read_text().replace(path.name, "../x.gguf"))
        assert ModelStore(tmp_path).record("qwen3-4b") is None


class TestList:
    def listed(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str) -> str:
        command = ["list", *options] if options else []
        monkeypatch.setattr(sys, "argv", ["guildllama", "models", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    def test_it_names_all(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("bot.terminal.models_commands.this_machine", lambda: Machine(8 * GB, 8))
        pulled(tmp_path / "data" / "models", "gemma-3-4b")
        shown = self.listed(capsys, monkeypatch)
        assert all(model.name in shown for model in CATALOGUE)
        line = next(line for line in shown.splitlines() if "gemma-3-4b " in line)
        assert all(text in line for text in ("3.88B", "2.5", "4.2/6.2/9.5", "CPU 4-bit", "Korean", "Gemma"))
        assert line.rstrip().endswith("yes")
        assert "too large" in next(line for line in shown.splitlines() if "llama-3.3-70b" in line)

    @pytest.mark.parametrize(("width", "left_out"), [(80, ("languages", "licence")), (110, ("licence",)), (120, ())])
    def test_each_model_stands_on_one_line_of_a_terminal(
        self,
        width: int,
        left_out: tuple[str, ...],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("bot.terminal.output._PIPE_WIDTH", width)
        monkeypatch.setattr("bot.terminal.models_commands.this_machine", lambda: Machine(16 * GB, 8))
        pinned = [model.name for model in CATALOGUE if model.pinned]
        for name in pinned:
            pulled(tmp_path / "data" / "models", name)
        lines = self.listed(capsys, monkeypatch).splitlines()
        assert max(len(line) for line in lines) <= width
        ends = [line.lstrip("* ").split()[0] for line in lines if line.rstrip().endswith("  yes")]
        assert ends == pinned
        assert any("30.5B-A3.3B" in line for line in lines)
        assert [name for name in ("languages", "licence") if name not in lines[2]] == list(left_out)
        assert any(line.endswith(f"also shows: {', '.join(left_out)}") for line in lines) == bool(left_out)

    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("bot.terminal.models_commands.this_machine", lambda: Machine(8 * GB, 8))
        found = json.loads(self.listed(capsys, monkeypatch, "--json"))
        assert found["machine"]["cores"] == 8
        assert [model["name"] for model in found["models"] if model["recommended"]] == ["qwen3-4b-2507"]


class TestHint:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hint, "this_machine", lambda: Machine(8 * GB, 8))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
        with FakeHub() as server:
            monkeypatch.setattr(constants, "ENDPOINT", server.url)
            yield server

    async def test_it_names_a_better_model_and_its_command(self, hub: FakeHub, tmp_path: Path):
        line = await hint.better_model(settings(models_dir=str(tmp_path)))
        assert line is not None
        assert line.endswith("guildllama models pull qwen3-4b-2507, then GUILDLLAMA_MODEL=qwen3-4b-2507")
        assert "\n" not in line

    async def test_it_names_the_settings_without_which_the_model_does_not_fit(
        self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(hint, "this_machine", lambda: Machine(4 * GB, 2, (Gpu("small", 5 * GB),) * 2))
        line = await hint.better_model(settings(models_dir=str(tmp_path)))
        assert line is not None
        wanted = "GUILDLLAMA_MODEL=qwen3-8b GUILDLLAMA_GPUS=2"
        assert line.endswith(f"guildllama models pull qwen3-8b, then {wanted}")
        pulled(tmp_path, "qwen3-8b")
        line = await hint.better_model(settings(models_dir=str(tmp_path)))
        assert line is not None
        assert f"{wanted} is here already" in line

    async def test_one_that_is_here_needs_no_hub(self, hub: FakeHub, tmp_path: Path):
        pulled(tmp_path, "qwen3-4b-2507")
        line = await hint.better_model(settings(models_dir=str(tmp_path)))
        assert line is not None
        assert "GUILDLLAMA_MODEL=qwen3-4b-2507" in line
        assert hub.asked == []

    @pytest.mark.parametrize(
        "values", [{"model_hint": False}, {"model": "x.gguf"}, {"engine_url": "http://127.0.0.1:9"}]
    )
    async def test_who_needs_none_is_not_told(self, hub: FakeHub, tmp_path: Path, values: dict[str, object]):
        assert await hint.better_model(settings(models_dir=str(tmp_path), **values)) is None
        assert hub.asked == []

    async def test_offline(self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert await hint.better_model(settings(models_dir=str(tmp_path))) is None
        assert hub.asked == []

    @pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense", "http://[::"])
    async def test_no_hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        assert await hint.better_model(settings(models_dir=str(tmp_path))) is None

    async def test_a_hub_that_is_silent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        async def silent(request: web.Request) -> web.Response:
            await asyncio.sleep(60)
            raise AssertionError

        app = web.Application()
        app.router.add_get("/api/models", silent)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
        monkeypatch.setattr(hint, "ANSWER_SECONDS", 0.2)
        began = time.monotonic()
        assert await hint.better_model(settings(models_dir=str(tmp_path))) is None
        assert time.monotonic() - began < 5
        await runner.cleanup()
