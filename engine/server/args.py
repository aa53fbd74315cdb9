"""The command line of the engine: `python -m engine --model …` serves, `python -m engine inspect …` describes.

Only parses. Does not import torch, so that a wrong flag is reported at once. Knows no files and no devices.
"""

import argparse
import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from engine.kv_store.settings import KEY_BYTES
from engine.server import flag_types
from engine.server.flag_types import MIB
from engine.server.network.access import AccessPolicy, is_loopback

DEFAULT_MODEL = "smollm2"
EXIT_CONFIG = 78  # EX_CONFIG of sysexits.h


class UsageError(Exception):
    """A wrong command line; the message is one line."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The flags of `python -m engine`. `max_body` is in bytes, `stream_interval` in seconds.

    `local_only`: the address that `host` turns out to be must be one of this machine alone.
    """

    model: str
    name: str
    host: str
    port: int
    uds: Path | None
    access: AccessPolicy
    api_key: str | None
    local_only: bool
    max_body: int
    max_reply_tokens: int | None
    stream_interval: float
    repetition_guard: bool
    exit_with_parent: bool
    share_gpu: bool
    max_seq_len: int | None
    max_batch: int | None
    chunk: int | None
    max_waiting: int
    device: str
    dtype: str
    quantize: str
    kv_dtype: str
    speculate: str
    kv_memory: str | None
    kv_host_memory: str
    kv_dir: Path | None
    kv_dir_size: str
    kv_dir_key: bytes | None
    seed: int | None
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """The flags of `python -m engine inspect`."""

    path: str
    world_size: int
    json: bool
    chat_template: str | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see python -m engine --help)")


def parse(arguments: Sequence[str]) -> ServeOptions | InspectOptions:
    """Raises UsageError; SystemExit for --help."""
    if arguments and arguments[0] == "inspect":
        flags = _inspect_parser().parse_args(arguments[1:])
        return InspectOptions(flags.path, flags.world_size, flags.json, flags.chat_template)
    flags = _serve_parser().parse_args(arguments)
    _check_exposure(flags)
    return ServeOptions(
        model=flags.model,
        name=flags.served_model_name or _default_name(flags.model),
        host=flags.host,
        port=flags.port,
        uds=flags.uds,
        access=_access(flags),
        api_key=_api_key(flags.api_key_env),
        local_only=flags.api_key_env is None and not flags.insecure_no_api_key,
        max_body=flags.max_body_mib,
        max_reply_tokens=flags.max_reply_tokens,
        stream_interval=flags.stream_interval,
        repetition_guard=not flags.no_repetition_guard,
        exit_with_parent=flags.exit_with_parent,
        share_gpu=flags.share_gpu,
        max_seq_len=flags.max_seq_len,
        max_batch=flags.max_batch,
        chunk=flags.chunk,
        max_waiting=flags.max_waiting,
        device=flags.device,
        dtype=flags.dtype,
        quantize=flags.quantize,
        kv_dtype=flags.kv_dtype,
        speculate=flags.speculate,
        kv_memory=flags.kv_memory,
        kv_host_memory=flags.kv_host_memory,
        kv_dir=flags.kv_dir,
        kv_dir_size=flags.kv_dir_size,
        kv_dir_key=_kv_dir_key(flags),
        seed=flags.seed,
        chat_template=flags.chat_template,
    )


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m engine",
        description="Serves a Llama model over OpenAI's HTTP protocol. For several GPUs start it with torchrun.",
        epilog="python -m engine inspect PATH describes a checkpoint and the memory it needs.",
        allow_abbrev=False,
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=DEFAULT_MODEL, metavar="PATH", help="directory, .gguf file, or smollm2")
    model.add_argument(
        "--served-model-name", metavar="NAME", help="the name that clients see (default: the name of the path)"
    )
    _add_chat_template(model)
    model.add_argument(
        "--max-seq-len", type=flag_types.at_least(2), metavar="N", help="context in tokens (default: what fits)"
    )
    model.add_argument("--device", default="auto", help="auto, cpu or cuda")
    model.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    model.add_argument("--quantize", default="auto", help="weights: auto, none, int8, int4, or fp8 on GPUs since Ada")
    model.add_argument("--kv-dtype", default="auto", help="KV cache: auto, fp8 or int8")
    model.add_argument(
        "--speculate", default="auto", metavar="MODE",
        help="verify several next tokens in a step, guessed from the request's own text: auto, ngram or off",
    )  # fmt: skip
    model.add_argument(
        "--kv-memory", metavar="SIZE", help="KV cache: 8GiB, or a number of tokens (default: all that fits)"
    )
    model.add_argument(
        "--kv-host-memory", default="auto", metavar="SIZE",
        help="memory of the host for the KV of idle dialogs: auto (half of what is free, with GPUs), 32GiB, or 0: none",
    )  # fmt: skip
    model.add_argument(
        "--kv-dir", type=Path, metavar="DIR",
        help="keep the KV of the last hour's dialogs in sealed files there, over a restart; needs --kv-dir-key-env",
    )  # fmt: skip
    model.add_argument("--kv-dir-size", default="4GiB", metavar="SIZE", help="limit of these files together (4GiB)")
    model.add_argument(
        "--kv-dir-key-env", metavar="NAME",
        help="environment variable with the key that seals them: 32 bytes in url-safe base64",
    )  # fmt: skip
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-batch",
        type=flag_types.at_least(1),
        metavar="N",
        help="requests that run at a time (default: what fits; 8 on a CPU)",
    )
    limits.add_argument(
        "--max-waiting", type=flag_types.at_least(0), default=256, metavar="N", help="queued requests (256)"
    )
    limits.add_argument("--chunk", type=flag_types.at_least(1), metavar="N", help="prompt tokens per step")
    limits.add_argument(
        "--max-reply-tokens",
        type=flag_types.at_least(1),
        metavar="N",
        help="longest reply (default: what the context leaves)",
    )
    limits.add_argument(
        "--max-body-mib", type=flag_types.mebibytes, default=8 * MIB, metavar="N", help="largest request body (8)"
    )
    limits.add_argument(
        "--stream-interval", type=flag_types.seconds, default=0.0, metavar="S",
        help="after each event of a stream gather tokens for S seconds (0: an event per token)",
    )  # fmt: skip
    limits.add_argument(
        "--no-repetition-guard", action="store_true", help="let a reply that only repeats itself go on to its limit"
    )
    limits.add_argument("--seed", type=int, metavar="N", help="for requests without a seed (default: random)")
    network = parser.add_argument_group("network and process")
    network.add_argument("--host", type=flag_types.bind_host, default="127.0.0.1", help="address (127.0.0.1)")
    network.add_argument(
        "--port", type=flag_types.port, default=8000, help="port (8000); 0 chooses a free one and prints it"
    )
    network.add_argument("--uds", type=Path, metavar="PATH", help="a Unix socket instead, for this user only")
    network.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable that holds the key clients must send"
    )
    network.add_argument(
        "--insecure-no-api-key", action="store_true",
        help="with an address that is not of this machine alone: let everyone who reaches the port use the model",
    )  # fmt: skip
    network.add_argument(
        "--allowed-host", type=flag_types.host, action="append", default=[], metavar="NAME",
        help="another name of this server that requests may have in Host; may be repeated, * allows all",
    )  # fmt: skip
    network.add_argument(
        "--allowed-origin", type=flag_types.origin, action="append", default=[], metavar="ORIGIN",
        help="web pages that may use the server, such as https://chat.example; may be repeated, * allows all",
    )  # fmt: skip
    network.add_argument("--exit-with-parent", action="store_true", help="exit when the parent process ends")
    network.add_argument(
        "--share-gpu", action="store_true", help="let ranks share a GPU: for tests of correctness, slow"
    )
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m engine inspect", description="Describes a checkpoint without loading its weights.")
    parser.add_argument("path", metavar="PATH", help="directory, .gguf file, or smollm2")
    parser.add_argument("--world-size", type=flag_types.at_least(1), default=1, metavar="N", help="number of ranks (1)")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a table")
    _add_chat_template(parser)
    return parser


def _add_chat_template(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--chat-template", metavar="FILE", help="a Jinja chat template to use instead of the model's own"
    )


def _default_name(model: str) -> str:
    """The name of the directory or file, without .gguf."""
    path = Path(model)
    return (path.stem if path.suffix == ".gguf" else path.resolve().name) or DEFAULT_MODEL


def _check_exposure(flags: argparse.Namespace) -> None:
    """Raises UsageError if other machines could use the model without a key."""
    is_open = flags.uds is None and not is_loopback(flags.host)
    if is_open and flags.api_key_env is None and not flags.insecure_no_api_key:
        raise UsageError(
            f"--host {flags.host}: other machines could use the model without a key; "
            "give --api-key-env NAME, or --insecure-no-api-key to let them"
        )


def _access(flags: argparse.Namespace) -> AccessPolicy:
    host = flags.host if flags.uds is None else None
    return AccessPolicy(host, frozenset(flags.allowed_host), frozenset(flags.allowed_origin))


def _api_key(variable: str | None) -> str | None:
    """Read from the environment, because every user of the machine can see the command line."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"--api-key-env: the environment variable {variable} is empty or not set")
    return key


def _kv_dir_key(flags: argparse.Namespace) -> bytes | None:
    """Read from the environment, and taken out of it: programs that the engine starts need not have it."""
    variable = flags.kv_dir_key_env
    if flags.kv_dir is None:
        return None
    if variable is None:
        raise UsageError("--kv-dir: pages are kept sealed or not at all; give --kv-dir-key-env NAME")
    text = os.environ.pop(variable, "").strip()
    try:
        key = base64.urlsafe_b64decode(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UsageError(
            f"--kv-dir-key-env: the environment variable {variable} must be {KEY_BYTES} bytes in url-safe base64"
        )
    return key
