"""From a command line to a running rank: rank 0 hosts the server, the others follow, and every end has an exit code.

0: told to stop; 78: a model or setting that cannot work (one line says which); 1: everything else, so that a launcher
starts a fresh group. torch is imported only once there is something to load: the server listens before that.
"""

import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import ConfigError, EngineError
from engine.server.api_server import ApiServer, say
from engine.server.args import BAD_CONFIG, InspectOptions, ServeOptions, UsageError, parse
from engine.server.serving import LoadedModel

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint, ModelSpec
    from engine.config import EngineConfig

SWITCH_INTERVAL = 0.0005  # seconds: the torch thread never waits long for the event loop's turn to end
RANK_0_SPEAKS = 3.0  # seconds that other ranks leave to rank 0 to name a mistake that all of them see
PARENT_WATCH = 1.0
PARENT_GRACE = 8.0
PROBE_TIMEOUT = 600.0
CONNECTIONS = 65536


def main(arguments: Sequence[str]) -> int:
    """Runs one rank to its end."""
    try:
        options = parse(arguments)
    except UsageError as error:
        return _give_up(str(error))
    if isinstance(options, InspectOptions):
        return _inspect(options)
    sys.setswitchinterval(SWITCH_INTERVAL)
    _allow_many_connections()
    if options.exit_with_parent or "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_parent(graceful=_rank() == 0)
    return _serve(options) if _rank() == 0 else _follow(options)


def _serve(options: ServeOptions) -> int:
    import asyncio

    try:
        return asyncio.run(ApiServer(options, lambda: load(options)).run())
    except ConfigError as error:
        return _give_up(str(error))


def _follow(options: ServeOptions) -> int:
    try:
        from engine.core.follower import run_worker

        config, checkpoint = prepare(options)
    except ConfigError as error:
        time.sleep(RANK_0_SPEAKS)
        return _give_up(f"[rank {_rank()}] {error}")
    try:
        run_worker(config, checkpoint)
    except ConfigError as error:
        return _give_up(f"[rank {_rank()}] {error}")
    except EngineError as error:
        say(f"[rank {_rank()}] {error}")
        return 1
    return 0


def prepare(options: ServeOptions) -> "tuple[EngineConfig, Checkpoint]":
    """What every rank can check alone, before any of them waits for another. Reads no weights."""
    from engine.checkpoint import open_checkpoint
    from engine.config import resolve

    checkpoint = open_checkpoint(options.model)
    config = resolve(
        checkpoint.spec,
        device=options.device,
        dtype=options.dtype,
        max_num_seqs=options.max_batch,
        max_context=options.max_seq_len,
        max_prefill_tokens=options.chunk,
        quantize=options.quantize,
        kv_dtype=options.kv_dtype,
        max_waiting=options.max_waiting,
        seed=options.seed,
        share_gpu=options.share_gpu,
    )
    if options.kv_memory is not None:
        config = replace(config, num_kv_pages=_kv_pages(options.kv_memory, checkpoint.spec, config))
    return config, checkpoint


def _kv_pages(wish: str, spec: "ModelSpec", config: "EngineConfig") -> int:
    """`8GiB` of KV cache on each rank, or a plain number of tokens, as pages."""
    from engine.runner.memory import kv_bytes_per_page

    given = re.fullmatch(r"(\d+(?:\.\d+)?)(GiB|MiB)?", wish)
    if given is None:
        raise ConfigError("--kv-memory", expected="a size such as 8GiB or 512MiB, or a number of tokens", found=wish)
    number, unit = float(given[1]), given[2]
    if unit is None:
        return -(-int(number) // config.page_size)
    return int(number * (1 << (30 if unit == "GiB" else 20)) / kv_bytes_per_page(spec, config))


def load(options: ServeOptions) -> LoadedModel:
    """The engine with its model in memory, after it has really computed a token."""
    from engine.chat_format import chat_format
    from engine.core.engine_core import EngineCore, RequestFailed, SamplingParams

    config, checkpoint = prepare(options)
    tokenizer = checkpoint.tokenizer()
    chat = chat_format(checkpoint.spec, tokenizer)
    ranks = f"{config.world_size} ranks" if config.world_size > 1 else "1 rank"
    say(f"loading {options.model} on {config.device.type}, {ranks}, {str(config.dtype).removeprefix('torch.')}")
    engine = EngineCore.start(config, checkpoint)
    probe = engine.submit([tokenizer.bos_id or 0], SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    try:
        probe.result(PROBE_TIMEOUT)
    except RequestFailed as error:
        engine.close()
        raise ConfigError(options.model, expected="weights that compute a token", found=str(error)) from error
    return LoadedModel(engine, tokenizer, chat, config.max_context)


def _inspect(options: InspectOptions) -> int:
    from engine.server import inspect_checkpoint

    try:
        sys.stdout.write(inspect_checkpoint.report(options.path, world_size=options.world_size, as_json=options.json))
    except EngineError as error:
        return _give_up(str(error))
    return 0


def _give_up(problem: str) -> int:
    say(problem)
    return BAD_CONFIG


def _allow_many_connections() -> None:
    """Every waiting client holds a file descriptor, and the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS if hard == resource.RLIM_INFINITY else min(CONNECTIONS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _rank() -> int:
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def _end_with_parent(*, graceful: bool) -> None:
    """A launcher that is killed cannot take its children along: each looks after itself."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_WATCH)
        say("the launcher is gone: leaving")
        if graceful:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PARENT_GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def run(arguments: Sequence[str]) -> None:
    """Runs a rank and ends the process, whatever threads and process groups are still busy."""
    code = 1
    try:
        code = main(arguments)
    except SystemExit as error:  # --help
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
