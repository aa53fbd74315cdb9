"""Kernels' own times add up to the step's; a collective's exchange is its time on the rank that comes last."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.autograd import DeviceType

from engine.bench.kernel_times import (
    FIRST,
    KINDS,
    Kernel,
    kind_of,
    own_times,
    short_name,
    split_steps,
    step_table,
    summary,
    top_kernels,
)
from engine.bench.profile import device_kernels
from engine.kernels import collectives, pointwise

GEMM = "void cutlass::Kernel2<cutlass_80_tensorop_bf16>(Params)"


def step(start: float, wait: float = 0.0) -> list[Kernel]:
    """A step: 2 µs + 1 idle, product 30, sum 10 + `wait` (starts 5 early), attention 5, broadcast 4, 1 more, copy 3."""
    ends = start + 48 + wait
    return [
        Kernel(FIRST, start, start + 2),
        Kernel("gemv_kernel", start + 3, start + 33),
        Kernel("all_reduce_row_kernel", start + 28, start + 43 + wait),
        Kernel("decode_attention_kernel", start + 43 + wait, start + 48 + wait),
        Kernel("broadcast_ids_kernel", ends, ends + 4),
        Kernel("advance_kernel", ends + 4, ends + 5),
        Kernel("Memcpy DtoH (Device -> Pinned)", ends + 7, ends + 10),
    ]


def test_own_times_cover_the_union_of_the_intervals_once() -> None:
    kernels = [
        Kernel("c", 30, 40),
        Kernel("a", 0, 10),
        Kernel("b", 5, 12),
        Kernel("inside", 6, 8),
        Kernel("late", 45, 46),
    ]
    times = own_times(kernels)
    assert [(time.kernel.name, time.own, time.idle) for time in times] == [
        ("a", 10, 0), ("b", 2, 0), ("inside", 0, 18), ("c", 10, 5), ("late", 1, 0),
    ]  # fmt: skip
    assert sum(time.own + time.idle for time in times) == 46


def test_a_step_is_divided_without_rest() -> None:
    steps = split_steps(own_times(step(0) + step(100, wait=6) + step(220)))
    table = step_table(steps)
    assert table.columns == (*KINDS, "all_reduce_row_kernel", "broadcast_ids_kernel")
    assert table.rows == [[30, 5, 3, 1, 47, 10, 4], [30, 5, 3, 1, 61, 16, 4]]
    assert [sum(row) for row in table.rows] == [100, 120]


def test_the_rank_that_comes_last_shows_the_exchange() -> None:
    columns = (*KINDS, "sum", "sum", "gather")
    early = [[10.0, 0, 0, 0, 0, 9, 2, 1], [10.0, 0, 0, 0, 0, 7, 2, 1]]
    late = [[16.0, 0, 0, 0, 0, 3, 2, 1], [14.0, 0, 0, 0, 0, 3, 2, 3]]
    found = summary(columns, [early, late])
    assert found["step_ms"] == pytest.approx(0.0215)
    assert found["products_ms"] == pytest.approx(0.0125)
    assert (found["collectives_ms"], found["exchange_ms"], found["skew_ms"]) == pytest.approx((0.009, 0.006, 0.003))
    assert found["wait_ms_by_rank"] == pytest.approx([0.005, 0.001])
    by_name = found["collectives"]
    assert isinstance(by_name, dict)
    assert by_name["sum"] == {"count": 2, "ms": 0.0075, "exchange_ms": 0.005, "skew_ms": 0.0025}


def test_steps_that_differ_are_an_error() -> None:
    with pytest.raises(ValueError, match="same collectives"):
        step_table(split_steps(own_times(step(0) + step(100)[:2] + step(200) + step(300))))
    with pytest.raises(ValueError, match="no complete step"):
        step_table(split_steps(own_times(step(0))))


def test_the_largest_kernels_come_first() -> None:
    first, second, *_ = top_kernels(split_steps(own_times(step(0) + step(100) + step(200))), 2)
    assert first == {"name": "gemv_kernel", "ms": 0.03, "count": 1.0, "own_us": 30.0, "us": 30.0}
    assert (second["name"], second["own_us"], second["us"]) == ("all_reduce_row_kernel", 10.0, 15.0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNT", "products"),
        (GEMM, "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16>(Params)", "products"),
        ("eight_bit_dequantize_kernel", "products"),
        ("split_kv_kernel", "attention"),
        ("fused_decode_value_proj_kernel", "attention"),
        ("reduce_scatter_kernel", "collective"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "collective"),
        ("gather_kernel", "other"),
        ("norm_kernel", "other"),
        ("Memcpy HtoD (Pinned -> Device)", "other"),
    ],
)
def test_the_name_says_the_kind(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_each_collective_of_the_engine_is_known() -> None:
    names = [name for file in folder(collectives).glob("*.py") for name in kernels_of(file)]
    assert len(names) >= 5
    assert {kind_of(name) for name in names} == {"collective"}
    assert hasattr(pointwise, FIRST)


def test_no_kernel_of_matrices_or_attention_is_taken_for_another() -> None:
    """Kernels in `linear` are products, and those in `attention` are attention, except for the experts' lists."""
    for room, kind in (("linear", "products"), ("attention", "attention")):
        for file in (folder(collectives).parent / room).rglob("*.py"):
            names = kernels_of(file)
            assert {kind_of(name) for name in names} <= {kind} or file.name == "experts.py", (file, names)


def folder(package: ModuleType) -> Path:
    return Path(package.__path__[0])


def kernels_of(file: Path) -> list[str]:
    return re.findall(r"^def (\w+_kernel)\(", file.read_text(), re.MULTILINE)


def test_names_are_short() -> None:
    assert short_name("void at::native::vectorized_elementwise_kernel<4, Fill>(int)") == "vectorized_elementwise_kernel"
    assert short_name(GEMM).startswith("cutlass::Kernel2<cutlass_80_tensorop")
    assert len(short_name("nvjet" * 40)) <= 48


def test_the_profiler_s_events_have_names_and_times() -> None:
    """Events of the CPU, as there is no GPU: the same calls read both."""
    a = torch.ones(64, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.mm(a, a)
        torch.mm(a, a)
    products = [kernel for kernel in device_kernels(profiler, DeviceType.CPU) if kernel.name == "aten::mm"]
    assert len(products) == 2
    assert products[0].start < products[0].end <= products[1].start
    assert device_kernels(profiler, DeviceType.CUDA) == []
