"""The compiled code is built once, and its absence is one line on stderr."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.runner.cpu import build
from tests.engine.tiny import write_checkpoint

LINE = "engine: no compiled code, computing in plain torch: "


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Looks again in each test, and once more for whoever comes after them."""
    build.library.cache_clear()
    yield
    build.library.cache_clear()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing was compiled here so far."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    return tmp_path / "extensions"


@pytest.mark.usefixtures("empty")
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr(build.torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert build.library() is None
    assert build.library() is None
    assert capsys.readouterr().err == f"{LINE}it needs a C++ compiler\n"


@pytest.mark.usefixtures("empty")
def test_on_another_processor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(build.torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert build.library() is None
    assert capsys.readouterr().err == f"{LINE}it needs a processor with AVX2\n"


def test_a_build_that_fails_leaves_nothing(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "missing", lambda: None)
    monkeypatch.setenv("CXX", shutil.which("false") or "false")
    assert build.library() is None
    assert capsys.readouterr().err.startswith(LINE)
    assert [path.suffix for path in empty.iterdir()] == [".lock"]


def test_a_build_that_does_not_end(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "missing", lambda: None)
    monkeypatch.setattr(build, "PATIENCE", 0.01)
    assert build.library() is None
    assert "timed out" in capsys.readouterr().err
    assert [path.suffix for path in empty.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(build, "missing", lambda: None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "extensions"))
    assert build.library() is None
    assert capsys.readouterr().err.startswith(LINE)


def test_of_two_processes_one_compiles(empty: Path) -> None:
    if lack := build.missing():
        pytest.skip(lack)
    command = [sys.executable, "-c", "from engine.runner.cpu.build import library; assert library() is not None"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(map(len, said))[0] == 0
    assert max(said).startswith("engine: compiled for this processor in ")
    assert sorted(path.suffix for path in empty.iterdir()) == [".lock", ".so"]


def test_an_engine_without_it_answers(tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model", dim=64, heads=4, kv_heads=2, multiple_of=64))
    config = resolve(checkpoint.spec, device="cpu", max_context=128, quantize="int8")
    engine = EngineCore.start(config, checkpoint)
    reply = engine.submit([1, 5, 9], SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)).result(60)
    engine.close()
    assert len(reply) == 4
    assert not empty.exists()


def test_a_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = open_checkpoint(write_checkpoint(tmp_path / "model")).spec
    assert resolve(spec, device="cpu").native
    monkeypatch.setenv("GUILDLLAMA_NATIVE", "0")
    assert not resolve(spec, device="cpu").native
