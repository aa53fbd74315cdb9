"""How ranks stay in step: rank 0 tells every other rank each order, and finds out when one of them no longer listens.

Orders travel as int tensors over a gloo group on the CPU, never over the GPUs' own group, whose collectives cannot wait
for an idle night. No object is ever pickled. With one rank there is nobody to tell and no process group at all.

It knows processes and time limits, and neither requests nor models.
"""

import contextlib
import datetime
import os
import signal
import socket
from collections.abc import Callable
from typing import Protocol

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from engine.config import EngineConfig
from engine.distributed import process_monitor, tensor_parallel
from engine.distributed.wire import STOP, RankCommand, decode_command, encode_command

FRAME = 1024  # ints in the first broadcast of an order; few are longer
LOAD_TIMEOUT = 3600.0  # seconds that ranks wait for one that is still loading; one that dies is noticed at once


class Communicator(Protocol):
    """What the core needs of the others. `send` is rank 0's, `receive` everybody else's; the rest is called by all."""

    def broadcast_command(self, order: RankCommand) -> None: ...

    def receive_command(self) -> RankCommand: ...

    def all_reduce_min(self, value: int) -> int:
        """The least of all ranks' values; the others may still be loading."""
        ...

    def all_gather(self, value: int) -> tuple[int, ...]:
        """All ranks' values, in rank order; an answer is due at once."""
        ...

    def watch_peers(self, lost: Callable[[int, bool], None]) -> None:
        """From now on rank 0 watches the others' processes, and they its own.

        `lost` gets the first rank that ends, and whether STOP had been said. It is called in a thread of its own, since
        this one may be waiting for what will never come.
        """
        ...

    def kill_peers(self) -> None:
        """Rank 0 gives the others up: none may be left behind that no longer hears anything."""
        ...

    def close(self) -> None: ...


class SingleRank:
    """One rank: everything it says, it says to itself."""

    def broadcast_command(self, order: RankCommand) -> None:
        return

    def receive_command(self) -> RankCommand:
        raise RuntimeError("a single rank has nobody to obey")

    def all_reduce_min(self, value: int) -> int:
        return value

    def all_gather(self, value: int) -> tuple[int, ...]:
        return (value,)

    def watch_peers(self, lost: Callable[[int, bool], None]) -> None:
        return

    def kill_peers(self) -> None:
        return

    def close(self) -> None:
        return


class RankGroup:
    """Several ranks of one machine. A rank may load for a long while, but must answer quickly once it serves."""

    def __init__(self, config: EngineConfig) -> None:
        _use_loopback_interface()
        load = datetime.timedelta(seconds=LOAD_TIMEOUT)
        store, rank, world_size = next(rendezvous("env://", config.rank, config.world_size, timeout=load))
        # The launcher's store outlives a group: one that was started again must not find the addresses of the last.
        own = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("gloo", store=own, rank=rank, world_size=world_size, timeout=load)
        self._loading = dist.new_group(backend="gloo", timeout=load)
        quick = datetime.timedelta(seconds=config.group_timeout)
        self._control = dist.new_group(backend="gloo", timeout=quick)
        tensor_parallel.start_groups(config.world_size, nccl=config.device.type == "cuda" and not config.share_gpu)
        self._world_size = config.world_size
        self._frame = torch.zeros(FRAME, dtype=torch.int32)
        self._pids = self.all_gather(os.getpid())
        self._stopped = False

    def broadcast_command(self, order: RankCommand) -> None:
        self._stopped = order.op == STOP
        data = encode_command(order)
        head = data[:FRAME]
        self._frame[: len(head)] = head
        dist.broadcast(self._frame, src=0, group=self._control)
        if len(data) > FRAME:
            dist.broadcast(data[FRAME:], src=0, group=self._control)

    def receive_command(self) -> RankCommand:
        dist.broadcast(self._frame, src=0, group=self._control)
        length = int(self._frame[1])
        if length <= FRAME:
            order = decode_command(self._frame[:length])
            self._stopped = order.op == STOP
            return order
        rest = torch.empty(length - FRAME, dtype=torch.int32)
        dist.broadcast(rest, src=0, group=self._control)
        return decode_command(torch.cat((self._frame, rest)))

    def all_reduce_min(self, value: int) -> int:
        held = torch.tensor([value])
        dist.all_reduce(held, op=dist.ReduceOp.MIN, group=self._loading)
        return int(held)

    def all_gather(self, value: int) -> tuple[int, ...]:
        parts = [torch.zeros(1, dtype=torch.int64) for _ in range(self._world_size)]
        dist.all_gather(parts, torch.tensor([value]), group=self._control)
        return tuple(int(part) for part in parts)

    def watch_peers(self, lost: Callable[[int, bool], None]) -> None:
        watched = self._pids[:1] if dist.get_rank() else self._pids[1:]
        process_monitor.watch_processes(watched, lambda pid: lost(self._pids.index(pid), self._stopped))

    def kill_peers(self) -> None:
        for pid in self._pids:
            if pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        tensor_parallel.stop_groups()
        dist.destroy_process_group()


def connect(config: EngineConfig) -> Communicator:
    """Meet the other ranks, if there are any."""
    return RankGroup(config) if config.world_size > 1 else SingleRank()


def ignore_stop_signals() -> None:
    """The launcher signals all ranks at once, but only rank 0 may end the group: the others leave when it says STOP."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _use_loopback_interface() -> None:
    """Sockets of the ranks listen on the loopback interface only, unless the environment says otherwise."""
    names = {name for _, name in socket.if_nameindex()}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", loopback)
