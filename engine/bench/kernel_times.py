"""Where a step's time goes: turns kernels' start and end times into milliseconds a step, by kind and over the ranks.

The kernels of a step run in order on one stream, but a kernel may start before the previous one has ended, and then
waits for it (`engine/kernels/pdl.py`). So a kernel's *own* time begins when all kernels before it have ended. Own times
and the idle time between kernels add up to the time of a step.

It knows kernels' names and times. It knows neither the profiler that recorded them nor how ranks communicate.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

FIRST = "apply_updates_kernel"  # the first kernel of every step
COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "gather_logits", "broadcast_ids", "nccl")
ATTENTION = ("attention", "fused_decode", "split_kv", "rotate_and_store")
PRODUCTS = ("gemv", "matmul", "gemm", "nvjet", "cutlass", "cublas", "splitk", "quantize")
KINDS = ("products", "attention", "other", "gaps", "between")  # a row's first columns; the others are collectives
NAME_LENGTH = 48


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel or a copy as the profiler saw it. Times are in µs, of any origin."""

    name: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class OwnTime:
    """`own`: µs from the kernel's start or the end of all earlier kernels to its end; `idle`: µs until the next one."""

    kernel: Kernel
    own: float
    idle: float


@dataclass(frozen=True, slots=True)
class StepTable:
    """A row for each step, in µs. The columns are KINDS, then the names of the step's collectives in order."""

    columns: tuple[str, ...]
    rows: list[list[float]]


def kind_of(name: str) -> str:
    """The kind of the kernel of this name: "products", "attention", "collective" or "other"."""
    lower = name.lower()
    for kind, words in (("collective", COLLECTIVES), ("attention", ATTENTION), ("products", PRODUCTS)):
        if any(word in lower for word in words):
            return kind
    return "other"


def own_times(kernels: Sequence[Kernel]) -> list[OwnTime]:
    """Own times, by start. Their sum is the length of the union of the kernels' intervals."""
    in_order = sorted(kernels, key=lambda kernel: (kernel.start, kernel.end))
    times, busy_until = [], float("-inf")
    for index, kernel in enumerate(in_order):
        own = max(0.0, kernel.end - max(kernel.start, busy_until))
        busy_until = max(busy_until, kernel.end)
        next_start = in_order[index + 1].start if index + 1 < len(in_order) else busy_until
        times.append(OwnTime(kernel, own, max(0.0, next_start - busy_until)))
    return times


def split_steps(times: Sequence[OwnTime]) -> list[list[OwnTime]]:
    """The complete steps, each from its FIRST to that of the next step. The last step has no end and is left out."""
    starts = [index for index, time in enumerate(times) if time.kernel.name == FIRST]
    return [list(times[start:end]) for start, end in pairwise(starts)]


def step_table(steps: Sequence[Sequence[OwnTime]]) -> StepTable:
    """The table of complete steps. ValueError if there are none, or if their collectives or the order differ."""
    names = [tuple(time.kernel.name for time in step if kind_of(time.kernel.name) == "collective") for step in steps]
    if not steps:
        raise ValueError(f"no complete step: the profiler saw no two kernels named {FIRST}")
    if len(set(names)) > 1:
        counts = sorted(len(each) for each in names)
        raise ValueError(f"{len(steps)} steps do not have the same collectives: {counts[:1]} to {counts[-1:]} each")
    return StepTable((*KINDS, *names[0]), [_row(step) for step in steps])


def _row(step: Sequence[OwnTime]) -> list[float]:
    """A step's row. `gaps`: idle time between its kernels; `between`: after the last one, copy of the ids and idle."""
    sums = dict.fromkeys(KINDS, 0.0)
    collectives = []
    last = max(index for index, time in enumerate(step) if not is_copy(time.kernel.name))
    for index, time in enumerate(step):
        kind = kind_of(time.kernel.name)
        if kind == "collective":
            collectives.append(time.own)
        elif index > last:
            sums["between"] += time.own
        else:
            sums[kind] += time.own
        sums["gaps" if index < last else "between"] += time.idle
    return [*sums.values(), *collectives]


def is_copy(name: str) -> bool:
    """Whether it is a copy or a fill by the copy engines."""
    return name.startswith(("Memcpy", "Memset"))


def summary(columns: Sequence[str], ranks: Sequence[Sequence[Sequence[float]]]) -> dict[str, object]:
    """Milliseconds of a step, as means over steps and ranks. `ranks`: the rows of each rank.

    The rank that reaches a collective last does not wait: the shortest time over the ranks is the `exchange`, and the
    `skew` is how much longer the ranks take on average. `wait_ms_by_rank`: how much longer each one takes; the late
    rank has the least. While rank 0 gathers the logits and samples, the others wait for the ids: skew by design.
    """
    steps = range(len(ranks[0]))
    by_rank = [[fmean(rows[step][at] for step in steps) for at in range(len(columns))] for rows in ranks]
    mean = [fmean(rank[at] for rank in by_rank) for at in range(len(columns))]
    least = [fmean(min(rows[step][at] for rows in ranks) for step in steps) for at in range(len(columns))]
    sums = range(len(KINDS), len(columns))
    by_name = {
        name: {
            "count": len(found), "ms": _ms(mean[at] for at in found), "exchange_ms": _ms(least[at] for at in found),
            "skew_ms": _ms(mean[at] - least[at] for at in found),
        }
        for name in dict.fromkeys(columns[len(KINDS) :])
        if (found := [at for at in sums if columns[at] == name])
    }  # fmt: skip
    return {
        "step_ms": _ms(mean),
        **{f"{kind}_ms": _ms([mean[at]]) for at, kind in enumerate(KINDS)},
        "collectives_ms": _ms(mean[at] for at in sums),
        "exchange_ms": _ms(least[at] for at in sums),
        "skew_ms": _ms(mean[at] - least[at] for at in sums),
        "wait_ms_by_rank": [_ms(rank[at] - least[at] for at in sums) for rank in by_rank],
        "collectives": by_name,
    }


def top_kernels(steps: Sequence[Sequence[OwnTime]], count: int = 8) -> list[dict[str, object]]:
    """The kernels with the largest own time: ms and launches a step, and mean µs a launch, own and start to end."""
    launches: Counter[str] = Counter()
    own: dict[str, float] = defaultdict(float)
    whole: dict[str, float] = defaultdict(float)
    for time in (time for step in steps for time in step):
        name = short_name(time.kernel.name)
        launches[name] += 1
        own[name] += time.own
        whole[name] += time.kernel.end - time.kernel.start
    return [
        {
            "name": name, "ms": round(total / 1000 / len(steps), 4), "count": round(launches[name] / len(steps), 2),
            "own_us": round(total / launches[name], 2), "us": round(whole[name] / launches[name], 2),
        }
        for name, total in sorted(own.items(), key=lambda item: -item[1])[:count]
    ]  # fmt: skip


def short_name(name: str) -> str:
    """A kernel's name; a C++ function's without return type, namespaces, template arguments and parameters."""
    bare = name.removeprefix("void ")
    if "cutlass" not in bare:  # whose kernels' names are in the template arguments
        bare = re.split(r"[<(]", bare, maxsplit=1)[0].rsplit("::", 1)[-1]
    return bare.strip()[:NAME_LENGTH]


def _ms(microseconds: Iterable[float]) -> float:
    return round(sum(microseconds) / 1000, 4)
