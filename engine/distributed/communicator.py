"""How the ranks communicate outside a step: rank 0's commands, small reductions, and the end of a rank.

Commands travel as int tensors over gloo groups on the CPU, never over the GPUs' NCCL group, whose collectives are not
made to wait for hours without a request. Nothing is pickled. A single rank has no process group at all.

It knows processes and timeouts, but neither requests nor models.
"""

import contextlib
import datetime
import os
import signal
import socket
from collections.abc import Callable
from typing import Final, Protocol

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from engine.config import EngineConfig
from engine.distributed import process_monitor, tensor_parallel
from engine.distributed.wire import STOP, RankCommand, decode_command, encode_command

FRAME_LENGTH: Final = 1024  # ints in a command's first broadcast; the rare longer command needs a second one
LOAD_TIMEOUT: Final = 3600.0  # seconds to wait for a rank that is still loading; one that dies is noticed at once


class Communicator(Protocol):
    """What the core needs of the other ranks. All ranks call every method, except where one rank is named."""

    def broadcast_command(self, command: RankCommand) -> None:
        """Rank 0 only: send a command to all other ranks."""
        ...

    def receive_command(self) -> RankCommand:
        """Ranks above 0 only: wait for rank 0's next command."""
        ...

    def all_reduce_min(self, value: int) -> int:
        """The minimum of all ranks' values. Waits up to LOAD_TIMEOUT, since other ranks may still be loading."""
        ...

    def all_gather(self, value: int) -> tuple[int, ...]:
        """All ranks' values in rank order. Waits up to `group_timeout`."""
        ...

    def watch_peers(self, on_lost: Callable[[int, bool], None]) -> None:
        """From now on rank 0 watches the processes of all other ranks, and they watch rank 0's.

        `on_lost` gets the first rank that ends and whether STOP had been sent. It is called from a thread of its own,
        since the calling thread may be waiting for the rank that was lost.
        """
        ...

    def kill_peers(self) -> None:
        """Rank 0 only: kill all other ranks, so that none that hangs is left behind."""
        ...

    def close(self) -> None:
        """Leave the process groups."""
        ...


class SingleRank:
    """The communicator of a world of one: nothing is sent."""

    def broadcast_command(self, command: RankCommand) -> None:
        """No other rank."""

    def receive_command(self) -> RankCommand:
        """Always raises RuntimeError."""
        raise RuntimeError("a single rank receives no commands")

    def all_reduce_min(self, value: int) -> int:
        """This rank's value."""
        return value

    def all_gather(self, value: int) -> tuple[int, ...]:
        """This rank's value."""
        return (value,)

    def watch_peers(self, on_lost: Callable[[int, bool], None]) -> None:
        """No other rank."""

    def kill_peers(self) -> None:
        """No other rank."""

    def close(self) -> None:
        """No process group."""


class RankGroup:
    """Several ranks of one machine. Their gloo groups differ in timeout: long while they load, short once they serve.

    Implements Communicator; the methods are described there.
    """

    def __init__(self, config: EngineConfig) -> None:
        _use_loopback_interface()
        load_timeout = datetime.timedelta(seconds=LOAD_TIMEOUT)
        store, rank, world_size = next(rendezvous("env://", config.rank, config.world_size, timeout=load_timeout))
        # The launcher's store outlives a group: a restarted group must not find the addresses of the last one.
        prefixed = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=prefixed, rank=rank, world_size=world_size, timeout=load_timeout)
        self._load_group = dist.new_group(backend="gloo", timeout=load_timeout)
        self._command_group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=config.group_timeout))
        tensor_parallel.start_groups(config.world_size, nccl=config.device.type == "cuda" and not config.share_gpu)
        self._world_size = config.world_size
        self._frame = torch.zeros(FRAME_LENGTH, dtype=torch.int32)
        self._pids = self.all_gather(os.getpid())
        self._stopped = False  # STOP was sent or received

    def broadcast_command(self, command: RankCommand) -> None:
        """Send the first FRAME_LENGTH ints, then the rest if there is any."""
        self._stopped = command.op == STOP
        data = encode_command(command)
        head = data[:FRAME_LENGTH]
        self._frame[: len(head)] = head
        dist.broadcast(self._frame, src=0, group=self._command_group)
        if len(data) > FRAME_LENGTH:
            dist.broadcast(data[FRAME_LENGTH:], src=0, group=self._command_group)

    def receive_command(self) -> RankCommand:
        """The counterpart of `broadcast_command`. The command's length is its second int."""
        dist.broadcast(self._frame, src=0, group=self._command_group)
        length = int(self._frame[1])
        data = self._frame[:length]
        if length > FRAME_LENGTH:
            rest = torch.empty(length - FRAME_LENGTH, dtype=torch.int32)
            dist.broadcast(rest, src=0, group=self._command_group)
            data = torch.cat((self._frame, rest))
        command = decode_command(data)
        self._stopped = command.op == STOP
        return command

    def all_reduce_min(self, value: int) -> int:
        """Over the group with the long timeout."""
        tensor = torch.tensor([value])
        dist.all_reduce(tensor, op=dist.ReduceOp.MIN, group=self._load_group)
        return int(tensor)

    def all_gather(self, value: int) -> tuple[int, ...]:
        """Over the group with the short timeout."""
        gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        dist.all_gather(gathered, torch.tensor([value]), group=self._command_group)
        return tuple(int(tensor) for tensor in gathered)

    def watch_peers(self, on_lost: Callable[[int, bool], None]) -> None:
        """Through the process monitor."""
        watched = self._pids[:1] if dist.get_rank() else self._pids[1:]
        process_monitor.watch_processes(watched, lambda pid: on_lost(self._pids.index(pid), self._stopped))

    def kill_peers(self) -> None:
        """SIGKILL, which a hung or stopped process cannot ignore."""
        for pid in self._pids:
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """Destroy all groups."""
        tensor_parallel.stop_groups()
        dist.destroy_process_group()


def connect(config: EngineConfig) -> Communicator:
    """Join the other ranks, if there are any. Blocks until all have joined."""
    return RankGroup(config) if config.world_size > 1 else SingleRank()


def ignore_stop_signals() -> None:
    """The launcher signals all ranks at once, but only rank 0 may end the group: the others wait for STOP."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _use_loopback_interface() -> None:
    """Let gloo and NCCL listen on the loopback interface only, unless the environment names another one."""
    names = {name for _, name in socket.if_nameindex()}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
