"""The engine and its model: our own, which is asked what it thinks of the files, or a server that is asked directly."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bot.engine_client.client import EngineClient
from bot.engine_client.replicas.address import alone, numbered
from bot.engine_process.command import engine_environment
from bot.engine_process.installed import check_engine_installed
from bot.errors import BotError, ConfigError
from bot.hub.machine import Machine, this_machine
from bot.hub.resolve import resolve_model
from bot.settings import Settings
from bot.settings.addresses import without_credentials
from bot.settings.listed_models import ListedModel
from bot.terminal.doctor.findings import Finding, bad, note, ok

INSPECT_SECONDS = 120
_DRIVER = Path("/proc/driver/nvidia/version")


def findings(settings: Settings) -> Iterator[Finding]:
    """Of our own engine, unless ENGINE_URL names another server; then of the models that guilds may choose."""
    if settings.engine_url is None:
        yield from _own_engine(settings)
    else:
        yield from asyncio.run(_external_engines(settings))
    yield from asyncio.run(_listed_models(settings))


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


async def _external_engines(settings: Settings) -> list[Finding]:
    """Ask the servers of the default model."""
    servers = settings.engine_servers
    names = [numbered(number, url) for number, (url, _) in enumerate(servers, start=1)]
    if len(servers) == 1:
        names = [without_credentials(url) for url, _ in servers]
    return await _servers(settings, servers, names, "GUILDLLAMA_ENGINE_URL", settings.model_name)


async def _listed_models(settings: Settings) -> list[Finding]:
    """Ask the servers of each model that guilds may choose."""
    found = await asyncio.gather(*(_listed_model(settings, model) for model in settings.listed_models))
    return [finding for each in found for finding in each]


async def _listed_model(settings: Settings, model: ListedModel) -> list[Finding]:
    servers = settings.servers_of(model)
    names = [numbered(number, url, model.name) for number, (url, _) in enumerate(servers, start=1)]
    if len(servers) == 1:
        names = [alone(url, model.name) for url, _ in servers]
    return await _servers(settings, servers, names, "GUILDLLAMA_MODELS", model.model_id, exactly=model.model_id)


async def _servers(
    settings: Settings,
    servers: Sequence[tuple[str, str | None]],
    names: Sequence[str],
    setting: str,
    model_id: str | None,
    *,
    exactly: str | None = None,
) -> list[Finding]:
    """Ask each server of a model by itself, at the same time; tell of them in the order of the settings.

    `exactly`: the model id that they must serve. None: a server with one model may give it any id.
    """
    clients = [EngineClient(url, key, model=model_id, thinking=settings.thinking) for url, key in servers]
    try:
        asked = await asyncio.gather(
            *(
                _ask(f"{setting}={name}", url, name, client, exactly)
                for name, (url, _), client in zip(names, servers, clients, strict=True)
            )
        )
    finally:
        await asyncio.gather(*(client.close() for client in clients))
    served = {(model, client.context_length) for (model, _), client in zip(asked, clients, strict=True) if model}
    found = [
        _context(settings, each, client) if each.status == "ok" else each
        for (_, each), client in zip(asked, clients, strict=True)
    ]
    if len(served) > 1:
        what = f"the servers at {setting} serve different models or contexts"
        found.append(bad("engine", what, "start them with the same model and the same context"))
    return found


async def _ask(where: str, url: str, name: str, client: EngineClient, exactly: str | None) -> tuple[str, Finding]:
    """The model that a server serves, "" if it does not say so, and what is found of the server."""
    try:
        model, ready = await client.model(), await client.ready()
    except BotError as error:
        target = urlsplit(url)
        address = f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}/models"
        return "", bad("engine", f"{where}: {error}", f"start the server, or correct the URL: curl {address}")
    context = f", context {client.context_length:,} tokens" if client.context_length else ""
    found = f"{name} serves {model}{context}"
    if exactly is not None and model != exactly:
        fix = f"name it in GUILDLLAMA_MODELS as its server does: {model}@{without_credentials(url)}"
        return model, bad("engine", f"{found}, and not {exactly}", fix)
    return model, ok("engine", found) if ready else note("engine", f"{found}, and says that it is not ready yet")


def _context(settings: Settings, found: Finding, client: EngineClient) -> Finding:
    """The finding, or a note that replies take too much of the server's context."""
    length = client.context_length
    if not length or length >= 2 * settings.max_reply_tokens:
        return found
    fix = f"GUILDLLAMA_MAX_REPLY_TOKENS={max(64, length // 4)}, or a larger context"
    return note("engine", f"{found.found}: half of it or more is kept for the reply", fix)
