"""What the tests of several ranks have in common: world sizes, limits, and worlds that compute replies and end.

A group is an engine that serves HTTP under torchrun; a world is ranks without a server (tests/engine/distributed).
"""

from pathlib import Path
from typing import Final

from tests.engine.distributed.shapes import SHAPES
from tests.engine.distributed.world import World
from tests.gpu import machine

SIZES: Final = machine.world_sizes()
# Faults of a rank are tested with two ranks, and with the largest world of the machine.
FAULT_SIZES: Final = sorted({2, max([2, *SIZES])})
KILLS: Final = 3  # of each group
CLIENTS: Final = 8
LAYERS: Final = 8  # of 70B's 80
DEVICE: Final = ("--device", machine.DEVICE)
LIMITS: Final = ("--max-seq-len", "2048", "--max-batch", "8", "--kv-memory", "32768")

REPLY_LENGTH: Final = 8 if machine.REHEARSAL else 32
SMALL: Final = {"max_num_seqs": 4, "num_kv_pages": 64, "num_host_slots": 0, "speculate": "off"}
# Each part has worlds of its own: every shape compiles kernels of its own, which takes most of the time.
PARTS: Final = 1 if machine.REHEARSAL else 3
SHAPES_BY_PART: Final = [list(SHAPES)[part::PARTS] for part in range(PARTS)]

DIALOGS: Final = [[3 + (7 * number + 5 * at * at) % 500 for at in range(150)] for number in range(4)]
# Steps of few shapes, so that few graphs are recorded.
SHORT_STEPS: Final = {"max_num_seqs": 4, "max_prefill_tokens": 64, "burst_prefill_tokens": 0, "counts_rows": False}
ROOM: Final = {"num_kv_pages": 200, "num_host_slots": 0}
LITTLE: Final = {"num_kv_pages": 24, "num_host_slots": 60}  # for two dialogs of eleven pages, and for all
Said = dict[str, str]  # the first word of each line that rank 0 printed, and the rest of it


def victims(size: int) -> list[int]:
    """The ranks that are killed, in order: the last one, rank 0, and those after it."""
    return [(size - 1 + number) % size for number in range(KILLS)]


def ask_dialogs(size: int, model: Path) -> Said:
    """What rank 0 says of three rounds of dialogs; one rank has room for everything, several have little."""
    config = {"speculate": "off", **SHORT_STEPS, **(ROOM if size == 1 else LITTLE)}
    more = {"device": machine.DEVICE, "dtype": "float32", "config": config}
    with World(size, "dialogs", model=str(model), prompts=DIALOGS, length=12, rounds=3, **more) as world:
        assert world.codes(240) == [0] * size, world.said
        return dict(line.split(" ", 1) for line in world.said[0] if " " in line)
