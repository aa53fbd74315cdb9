"""From a command line to a running rank: rank 0 runs the server, the other ranks run workers.

Exit codes: 0 after a stop signal; 78 for a model or setting that cannot work, with one line that names it; 1 for
everything else, so that a launcher restarts the process group. torch is imported only when the model is loaded, because
the server listens before that.
"""

import os
import resource
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import ConfigError, EngineError
from engine.load_progress import LoadProgress
from engine.server.api_server import ApiServer, log
from engine.server.args import EXIT_CONFIG, InspectOptions, ServeOptions, UsageError, parse
from engine.server.gpu_context import create_in_background
from engine.server.loaded_model import LoadedModel
from engine.server.parent_death import watch_parent

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint
    from engine.config import EngineConfig

MAX_OPEN_FILES = 65536
# In seconds.
SWITCH_INTERVAL = 0.0005  # Python's: how long the step loop's thread may wait for the GIL while the event loop runs
RANK_0_ERROR_DELAY = 3.0  # before another rank reports a ConfigError: all ranks find it, and rank 0 should be first
PROBE_TIMEOUT = 600.0  # for the first token


def main(arguments: Sequence[str]) -> int:
    """Run one rank, or `inspect`. Returns the exit code."""
    try:
        options = parse(arguments)
    except UsageError as error:
        return _config_exit(str(error))
    if isinstance(options, InspectOptions):
        return _inspect(options)
    create_in_background(options.device)
    sys.setswitchinterval(SWITCH_INTERVAL)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time: its library needs no threads
    _raise_open_file_limit()
    if options.exit_with_parent or "TORCHELASTIC_RUN_ID" in os.environ:
        watch_parent(log, graceful=_rank() == 0)
    return _run_server(options) if _rank() == 0 else _run_worker(options)


def _run_server(options: ServeOptions) -> int:
    import asyncio

    try:
        return asyncio.run(ApiServer(options, lambda progress: load_model(options, progress)).run())
    except ConfigError as error:
        return _config_exit(str(error))


def _run_worker(options: ServeOptions) -> int:
    try:
        from engine.core.follower import run_worker

        config, checkpoint = resolve_config(options)
    except ConfigError as error:
        time.sleep(RANK_0_ERROR_DELAY)
        return _config_exit(f"[rank {_rank()}] {error}")
    try:
        run_worker(config, checkpoint)
    except ConfigError as error:
        return _config_exit(f"[rank {_rank()}] {error}")
    except EngineError as error:
        log(f"[rank {_rank()}] {error}")
        return 1
    return 0


def resolve_config(options: ServeOptions) -> "tuple[EngineConfig, Checkpoint]":
    """The checks that a rank can make alone, before any rank waits for another. Reads no weights; ConfigError."""
    from engine.checkpoint import open_checkpoint
    from engine.config import resolve
    from engine.core.draft_vocabulary import check_draft_model
    from engine.kv_store.settings import StoreSettings
    from engine.runner.memory import host_slots_in, pages_in, store_bytes_in

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
        speculate=options.speculate,
        max_waiting=options.max_waiting,
        seed=options.seed,
        share_gpu=options.share_gpu,
    )
    if config.draft_model is not None:
        check_draft_model(config.draft_model, checkpoint)
    if options.kv_memory is not None:
        config = replace(config, num_kv_pages=pages_in(options.kv_memory, checkpoint.spec, config))
    config = replace(config, num_host_slots=host_slots_in(options.kv_host_memory, checkpoint.spec, config))
    if options.kv_dir is not None and options.kv_dir_key is not None:
        store = StoreSettings(options.kv_dir, options.kv_dir_key, store_bytes_in(options.kv_dir_size))
        config = replace(config, kv_store=store)
    return config, checkpoint


def load_model(options: ServeOptions, progress: LoadProgress | None = None) -> LoadedModel:
    """Start the engine and generate one token, to prove that it works. Blocks; raises ConfigError."""
    from engine.chat.chat_format import choose_format
    from engine.core.engine_core import EngineCore, RequestFailed, SamplingParams
    from engine.tokenizers.piecewise import PiecewiseEncoder

    config, checkpoint = resolve_config(options)
    tokenizer = checkpoint.tokenizer()
    encoder = PiecewiseEncoder(tokenizer)
    chosen = choose_format(checkpoint.spec, encoder, options.chat_template)
    ranks = f"{config.world_size} ranks" if config.world_size > 1 else "1 rank"
    log(
        f"loading {options.model} on {config.device.type}, {ranks}, {str(config.dtype).removeprefix('torch.')}; "
        f"prompts by {chosen.description}"
    )
    engine = EngineCore.start(config, checkpoint, progress)
    probe = engine.submit([tokenizer.bos_id or 0], SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))
    try:
        probe.result(PROBE_TIMEOUT)
    except RequestFailed as error:
        engine.close()
        raise ConfigError(options.model, expected="weights that compute a token", found=str(error)) from error
    limits = engine.config
    log(
        f"{limits.max_num_seqs} replies at a time, dialogs of up to {limits.max_context:,} tokens (the model's limit: "
        f"{checkpoint.spec.max_context:,}), a KV cache of {engine.stats().kv_tokens_total:,} tokens"
    )
    return LoadedModel(engine, tokenizer, encoder, chosen.format, limits.max_context)


def _inspect(options: InspectOptions) -> int:
    from engine.server import inspect_checkpoint

    try:
        sys.stdout.write(
            inspect_checkpoint.report(
                options.path,
                world_size=options.world_size,
                as_json=options.json,
                template_file=options.chat_template,
            )
        )
    except EngineError as error:
        return _config_exit(str(error))
    return 0


def _config_exit(problem: str) -> int:
    log(problem)
    return EXIT_CONFIG


def _raise_open_file_limit() -> None:
    """Every connection holds a file descriptor, and the usual limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _rank() -> int:
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdecimal() else 0


def run(arguments: Sequence[str]) -> None:
    """Run `main` and end the process at once, whatever its threads and process groups are doing."""
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
