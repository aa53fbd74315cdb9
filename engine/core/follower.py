"""What every rank above 0 does: load its shard, then execute rank 0's commands until STOP.

It knows commands, the runner and how the process ends. It knows neither requests nor scheduling.
"""

import os
import sys
import traceback
from typing import Final

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.core.garbage import freeze_gc
from engine.core.kv_files.rank_files import ANSWERED, RankFiles, open_files
from engine.core.worker import start_worker
from engine.distributed.communicator import Communicator, connect, ignore_stop_signals
from engine.distributed.wire import STOP
from engine.runner.base import AnyRunner

STORE_TIMEOUT: Final = 1.0  # seconds; rank 0 has waited for what it wanted written before it sent STOP


def run_worker(config: EngineConfig, checkpoint: Checkpoint) -> None:
    """The life of a rank above 0. Returns after STOP; ignores SIGTERM and SIGINT from the first command on.

    Raises ConfigError while it starts. After that any failure ends the process with exit code 1 at once, so that the
    other ranks notice.
    """
    communicator = connect(config)
    worker = start_worker(config, checkpoint, communicator)
    files = open_files(worker.config, checkpoint, worker)
    freeze_gc()
    ignore_stop_signals()
    communicator.watch_peers(_on_rank_0_lost)
    try:
        worker_loop(worker.runner, communicator, files)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def worker_loop(runner: AnyRunner, communicator: Communicator, files: RankFiles | None = None) -> None:
    """Execute commands until STOP. As on rank 0 with `overlap`, step n + 1 is launched before step n is waited for."""
    in_flight: object | None = None
    while (command := communicator.receive_command()).op != STOP:
        if command.files is not None and files is not None:
            answer = files.execute(command.files)
            if command.files.kind in ANSWERED:
                communicator.all_gather(answer)
            continue
        if command.plan is None:  # NOP, the heartbeat
            communicator.all_gather(runner.allocated_bytes())
            communicator.all_gather(runner.num_ready_slots)
            continue
        launched = runner.execute_async(command.plan)
        if in_flight is not None:
            runner.wait(in_flight)
        in_flight = launched
    if in_flight is not None:
        runner.wait(in_flight)
    if files is not None:
        files.store.close(STORE_TIMEOUT)
    runner.close()
    communicator.close()


def _on_rank_0_lost(rank: int, stopped: bool) -> None:
    """End the process, whatever its main thread is waiting for: nothing can be done without rank 0.

    Called from the process monitor's thread. `stopped`: rank 0 had sent STOP before it ended.
    """
    if not stopped:
        sys.stderr.write(f"engine: rank {rank} has ended\n")
        sys.stderr.flush()
    os._exit(0 if stopped else 1)
