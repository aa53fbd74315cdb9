"""The engine and its model: our own, which is asked what it thinks of the files, or a server that is asked directly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bot.engine_process.command import engine_environment
from bot.engine_process.installed import check_engine_installed
from bot.errors import BotError, ConfigError
from bot.hub.machine import Machine, this_machine
from bot.hub.resolve import resolve_model
from bot.services import external_engine
from bot.settings import Settings
from bot.terminal.doctor.findings import Finding, bad, note, ok

INSPECT_SECONDS = 120
_DRIVER = Path("/proc/driver/nvidia/version")


def findings(settings: Settings) -> Iterator[Finding]:
    """Of our own engine, unless ENGINE_URL names another server."""
    if settings.engine_url is None:
        yield from _own_engine(settings)
    else:
        yield asyncio.run(_external_engine(settings, settings.engine_url))


def _own_engine(settings: Settings) -> Iterator[Finding]:
    """Have the engine inspect the model, because it knows the formats. It reads no weights."""
    try:
        check_engine_installed(settings)
        model = resolve_model(settings)
    except ConfigError as error:
        yield bad("engine", f"{error.setting}: {error.problem}", error.fix)
        return
    named = f"GUILDLLAMA_MODEL={settings.model}"
    command = [sys.executable, "-m", "engine", "inspect", model, "--json", "--world-size", str(settings.gpus or 1)]
    if settings.chat_template is not None:
        command += ["--chat-template", settings.chat_template]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=INSPECT_SECONDS, check=False, env=engine_environment()
        )
        seen = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        yield bad("engine", f"{named} could not be looked at: {error}", f"python -m engine inspect {model}")
        return
    if seen is None:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        wrong = said.removeprefix("engine: ")
        fix = "guildllama models"
        if settings.chat_template is not None and settings.chat_template in wrong:
            named, fix = f"GUILDLLAMA_CHAT_TEMPLATE={settings.chat_template}", "correct the file, or unset it"
        yield bad("engine", f"{named}: {wrong}", fix)
        return
    yield ok("engine", f"our own, with {named}, context {seen['context']:,} tokens")
    yield ok("template", f"dialogs are written by {seen['chat_template']}")
    yield from gpu_findings(settings, this_machine(), len(seen["gpus"]), has_driver=_DRIVER.exists())
    yield from _memory(settings, seen)


def gpu_findings(settings: Settings, machine: Machine, usable: int, *, has_driver: bool) -> Iterator[Finding]:
    """What the GPUs of this machine are good for; `usable`: those that torch sees."""
    wanted = settings.gpus or 1
    needs = settings.device == "cuda" or (settings.device == "auto" and wanted > 1)
    there = len(machine.gpus)
    if usable == 0 and there == 0 and not has_driver:
        if needs:
            yield bad(
                "gpu", "no NVIDIA driver, and the settings want a GPU", "install the driver, or GUILDLLAMA_DEVICE=cpu"
            )
    elif usable == 0 and settings.device != "cpu":
        fix = "nvidia-smi; a torch without +cpu in `pip show torch`: pip install --force-reinstall torch"
        what = (
            f"torch cannot use the {there or ''} GPU of this machine: the driver fails or is old, or torch is for CPUs"
        )
        yield (bad if needs else note)("gpu", " ".join(what.split()), fix)
    elif needs and usable < wanted:
        yield bad("gpu", f"GUILDLLAMA_GPUS={wanted}, and torch sees {usable}", f"GUILDLLAMA_GPUS={usable}")
    elif usable:
        yield ok("gpu", f"{usable} usable: {', '.join(gpu.name for gpu in machine.gpus) or 'by torch'}")


def _memory(settings: Settings, seen: dict[str, object]) -> Iterator[Finding]:
    """Whether the weights fit into a CPU's memory; on GPUs the engine says so itself, rank by rank."""
    if seen["gpus"] and settings.device != "cpu":
        return
    memory, bits = this_machine().memory, settings.quantize
    size = seen[f"cpu_{bits}_bytes" if bits in {"int8", "int4"} else "served_bytes_per_rank"]
    if isinstance(size, int) and memory and size > memory:
        yield bad(
            "engine",
            f"the weights take {size / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB of memory",
            "guildllama models",
        )


async def _external_engine(settings: Settings, url: str) -> Finding:
    async with external_engine(settings, url) as engine:
        try:
            name = await engine.model()
            ready = await engine.ready()
        except BotError as error:
            target = urlsplit(url)
            return bad(
                "engine",
                f"GUILDLLAMA_ENGINE_URL={url}: {error}",
                f"start the server, or correct the URL: curl {target.scheme}://{target.netloc}{target.path}/models",
            )
        length = engine.context_length
    served = f"{url} serves {name}" + (f", context {length:,} tokens" if length else "")
    if not ready:
        return note("engine", f"{served}, and says that it is not ready yet")
    if length and length < 2 * settings.max_reply_tokens:
        fix = f"GUILDLLAMA_MAX_REPLY_TOKENS={max(64, length // 4)}, or a larger context"
        return note("engine", f"{served}: half of it or more is kept for the reply", fix)
    return ok("engine", served)
