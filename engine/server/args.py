"""The command line of the engine: `python -m engine --model …` serves, `python -m engine inspect …` looks.

Parses and nothing else: torch is not imported here, so that a wrong flag is answered at once.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

MIB = 1 << 20
DEFAULT_MODEL = "smollm2"
BAD_CONFIG = 78  # EX_CONFIG


class UsageError(Exception):
    """A command line that cannot be obeyed; its text is one line."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    model: str
    name: str
    host: str
    port: int
    uds: Path | None
    api_key: str | None
    max_body: int
    max_reply_tokens: int | None
    stream_interval: float
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
    kv_memory: str | None
    seed: int | None


@dataclass(frozen=True, slots=True)
class InspectOptions:
    path: str
    world_size: int
    json: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see python -m engine --help)")


def parse(arguments: Sequence[str]) -> ServeOptions | InspectOptions:
    if arguments and arguments[0] == "inspect":
        given = _inspect_parser().parse_args(arguments[1:])
        return InspectOptions(path=given.path, world_size=given.world_size, json=given.json)
    given = _serve_parser().parse_args(arguments)
    return ServeOptions(
        model=given.model,
        name=given.served_model_name or _name_of(given.model),
        host=given.host,
        port=given.port,
        uds=given.uds,
        api_key=_api_key(given.api_key_env),
        max_body=given.max_body_mib,
        max_reply_tokens=given.max_reply_tokens,
        stream_interval=given.stream_interval,
        exit_with_parent=given.exit_with_parent,
        share_gpu=given.share_gpu,
        max_seq_len=given.max_seq_len,
        max_batch=given.max_batch,
        chunk=given.chunk,
        max_waiting=given.max_waiting,
        device=given.device,
        dtype=given.dtype,
        quantize=given.quantize,
        kv_dtype=given.kv_dtype,
        kv_memory=given.kv_memory,
        seed=given.seed,
    )


def _serve_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m engine",
        description="Serves a Llama model over OpenAI's HTTP protocol. For several GPUs start it with torchrun.",
        epilog="python -m engine inspect PATH tells what a checkpoint is and what it needs.",
        allow_abbrev=False,
    )
    model = parser.add_argument_group("the model")
    model.add_argument("--model", default=DEFAULT_MODEL, metavar="PATH", help="directory, .gguf file, or smollm2")
    model.add_argument(
        "--served-model-name", metavar="NAME", help="the name that clients see (default: the path's end)"
    )
    model.add_argument("--max-seq-len", type=_at_least(2), metavar="N", help="context in tokens (default: the model's)")
    model.add_argument("--device", default="auto", help="auto, cpu or cuda")
    model.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    model.add_argument("--quantize", default="auto", help="weights: auto, none, int8 or int4")
    model.add_argument("--kv-dtype", default="auto", help="KV cache: auto, fp8 or int8")
    model.add_argument("--kv-memory", metavar="SIZE", help="KV cache: 8GiB, or a number of tokens (default: what fits)")
    load = parser.add_argument_group("the load")
    load.add_argument("--max-batch", type=_at_least(1), metavar="N", help="requests that run at a time")
    load.add_argument("--max-waiting", type=_at_least(0), default=256, metavar="N", help="requests that may wait (256)")
    load.add_argument("--chunk", type=_at_least(1), metavar="N", help="prompt tokens that may join one step")
    load.add_argument(
        "--max-reply-tokens", type=_at_least(1), metavar="N", help="no reply is longer (default: the context)"
    )
    load.add_argument("--max-body-mib", type=_mebibytes, default=8 * MIB, metavar="N", help="largest request body (8)")
    load.add_argument(
        "--stream-interval", type=_seconds, default=0.0, metavar="S",
        help="gather a stream's tokens for so many seconds before the next event (0: each token is an event)",
    )  # fmt: skip
    load.add_argument("--seed", type=int, metavar="N", help="for requests that bring none (default: random)")
    place = parser.add_argument_group("where it listens")
    place.add_argument("--host", default="127.0.0.1", help="address (127.0.0.1)")
    place.add_argument("--port", type=_port, default=8000, help="port (8000); 0 chooses a free one and prints it")
    place.add_argument("--uds", type=Path, metavar="PATH", help="a Unix socket instead, for this user only")
    place.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable that holds the key clients must send"
    )
    place.add_argument(
        "--exit-with-parent", action="store_true", help="end when the process that started this one ends"
    )
    place.add_argument(
        "--share-gpu", action="store_true", help="let ranks share a GPU: a check of correctness, never fast"
    )
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m engine inspect", description="Tells what a checkpoint is, without loading it.")
    parser.add_argument("path", metavar="PATH", help="directory, .gguf file, or smollm2")
    parser.add_argument("--world-size", type=_at_least(1), default=1, metavar="N", help="ranks to share it (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def _at_least(low: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, not {value}")
        return value

    return whole_number


def _port(text: str) -> int:
    port = _at_least(0)(text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, not {port}")
    return port


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 10:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 10, not {text!r}")
    return seconds


def _mebibytes(text: str) -> int:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < 1 << 20:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return max(1, int(size * MIB))


def _name_of(model: str) -> str:
    """What clients call the model when nobody said: the directory's or file's own name."""
    path = Path(model)
    return (path.stem if path.suffix == ".gguf" else path.resolve().name) or DEFAULT_MODEL


def _api_key(variable: str | None) -> str | None:
    """From the environment, since a command line is seen by every user of the machine."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"--api-key-env: the environment variable {variable} is empty or not set")
    return key
