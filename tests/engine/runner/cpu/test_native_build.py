"""The compiled code is built once, and if it cannot be built, one line on stderr says why."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.runner.cpu import build
from tests.engine.server.process import wait_until_exited
from tests.engine.tiny import write_checkpoint

LINE = "engine: no compiled code, computing in plain torch: "


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Forget the cached result before and after each test."""
    build.compiled_library.cache_clear()
    yield
    build.compiled_library.cache_clear()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that does not exist yet."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    return tmp_path / "extensions"


@pytest.mark.usefixtures("empty_cache")
def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr(build.torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert build.compiled_library() is None
    assert build.compiled_library() is None
    assert capsys.readouterr().err == f"{LINE}it needs a C++ compiler\n"


@pytest.mark.usefixtures("empty_cache")
def test_on_a_processor_without_avx2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(build.torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert build.compiled_library() is None
    assert capsys.readouterr().err == f"{LINE}it needs a processor with AVX2\n"


def test_a_build_that_fails_leaves_nothing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "missing_requirement", lambda: None)
    monkeypatch.setenv("CXX", shutil.which("false") or "false")
    assert build.compiled_library() is None
    assert capsys.readouterr().err.startswith(LINE)
    assert [path.suffix for path in empty_cache.iterdir()] == [".lock"]


def test_a_build_that_times_out_leaves_nothing(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "missing_requirement", lambda: None)
    monkeypatch.setattr(build, "COMPILE_TIMEOUT", 0.01)
    assert build.compiled_library() is None
    assert "timed out" in capsys.readouterr().err
    assert [path.suffix for path in empty_cache.iterdir()] == [".lock"]


def test_a_cache_folder_that_cannot_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(build, "missing_requirement", lambda: None)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "extensions"))
    assert build.compiled_library() is None
    assert capsys.readouterr().err.startswith(LINE)


@pytest.mark.long
def test_only_one_of_two_processes_compiles(empty_cache: Path) -> None:
    if reason := build.missing_requirement():
        pytest.skip(reason)
    command = [
        sys.executable,
        "-c",
        "from engine.runner.cpu.build import compiled_library; assert compiled_library() is not None",
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    stderrs = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(map(len, stderrs))[0] == 0
    assert max(stderrs).startswith("engine: compiled for this processor in ")
    assert sorted(path.suffix for path in empty_cache.iterdir()) == [".lock", ".so"]


def test_an_engine_without_compiled_code_answers(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "model", dim=64, heads=4, kv_heads=2, multiple_of=64))
    config = resolve(checkpoint.spec, device="cpu", max_context=128, quantize="int8")
    engine = EngineCore.start(config, checkpoint)
    reply = engine.submit([1, 5, 9], SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)).result(60)
    engine.close()
    assert len(reply) == 4
    assert not empty_cache.exists()


def test_an_environment_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = open_checkpoint(write_checkpoint(tmp_path / "model")).spec
    assert resolve(spec, device="cpu").native
    monkeypatch.setenv("GUILDLLAMA_NATIVE", "0")
    assert not resolve(spec, device="cpu").native


def test_attack_compilers_end_with_a_killed_process_and_its_folder_goes_at_the_next_build(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("ninja", path=build._environment()["PATH"]) is None:
        pytest.skip("it needs ninja")
    compiler = tmp_path / "c++"
    ask_version = "case $1 in -*) [ $# -le 2 ] && exec c++ $1;; esac"
    compiler.write_text(f"#!/bin/sh\n{ask_version}\ntouch {tmp_path}/$$.compiling; exec sleep 600\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    script = "from engine.runner.cpu import build; build.missing_requirement = lambda: None; build.compiled_library()"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (compiling := [*tmp_path.glob("*.compiling")]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    wait_until_exited(int(compiling[0].stem), 5)
    assert len([path for path in empty_cache.iterdir() if path.is_dir()]) == 1
    monkeypatch.setattr(build, "missing_requirement", lambda: None)
    monkeypatch.setenv("CXX", shutil.which("false") or "false")
    assert build.compiled_library() is None
    assert [path.suffix for path in empty_cache.iterdir()] == [".lock"]
