"""The engine's command line and environment, made from the settings."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from bot.engine_process.cache_key import KEY_VARIABLE
from bot.hub.resolve import resolve_drafts, resolve_model
from bot.settings import PREFIX, Settings

SETTING_OF_FLAG = {
    "--nproc-per-node": "GUILDLLAMA_GPUS",
    "--max-seq-len": "GUILDLLAMA_MAX_SEQ_LEN",
    "--device": "GUILDLLAMA_DEVICE",
    "--quantize": "GUILDLLAMA_QUANTIZE",
    "--speculate": "GUILDLLAMA_SPECULATE",
    "--chat-template": "GUILDLLAMA_CHAT_TEMPLATE",
    "--kv-host-memory": "GUILDLLAMA_KV_HOST_MEMORY",
    "--kv-dir": "GUILDLLAMA_KV_DIR",
    "--kv-dir-size": "GUILDLLAMA_KV_DIR_SIZE",
    "--kv-dir-key-env": "GUILDLLAMA_ENCRYPTION_KEYS",
    "--traces-url": "GUILDLLAMA_TRACES_URL",
}
"""The engine's flags as the operator knows them."""
STREAM_INTERVAL = 0.05
"""Seconds between two pieces of a reply: too short to be seen, and each piece costs both processes CPU time."""

_ROOT = Path(__file__).resolve().parent.parent.parent


def engine_command(settings: Settings, uds: Path) -> list[str]:
    """The command that runs the engine with these settings, listening on a Unix socket.

    Raises ConfigError for the name of a model that is not on this machine.
    """
    python = [sys.executable, "-m"]
    gpus = settings.gpus or 1
    if gpus > 1:
        # The launcher makes no restarts: the supervisor does, which logs each one and does not retry a bad setting.
        launcher = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(gpus), "--max-restarts", "0"]
        # Its files go beside the socket: in its own temporary folder they would stay for good.
        python += ["torch.distributed.run", *launcher, "--log-dir", str(uds.parent / "launcher"), "-m"]
    command = [*python, "engine", "--model", resolve_model(settings), "--uds", str(uds)]
    if gpus == 1:
        command.append("--exit-with-parent")
    command += ["--stream-interval", str(STREAM_INTERVAL)]
    if settings.max_seq_len is not None:
        command += ["--max-seq-len", str(settings.max_seq_len)]
    if settings.device != "auto":
        command += ["--device", settings.device]
    if settings.quantize != "auto":
        command += ["--quantize", settings.quantize]
    if settings.speculate != "auto":
        command += ["--speculate", resolve_drafts(settings)]
    if settings.kv_host_memory != "auto":
        command += ["--kv-host-memory", settings.kv_host_memory]
    if settings.kv_dir is not None:
        command += [
            "--kv-dir",
            settings.kv_dir,
            "--kv-dir-size",
            settings.kv_dir_size,
            "--kv-dir-key-env",
            KEY_VARIABLE,
        ]
    if settings.chat_template is not None:
        command += ["--chat-template", settings.chat_template]
    if settings.traces_url is not None:
        command += ["--traces-url", settings.traces_url]
    return command + shlex.split(settings.engine_args)


def engine_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The engine's environment: without our settings, so no token and no database URL, and able to import `engine`."""
    kept = {name: value for name, value in environ.items() if not name.upper().startswith(PREFIX)}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environ.get("PYTHONPATH")]))
    kept["PYTHONUNBUFFERED"] = "1"
    return kept
