"""The rows and the context that memory allows, where the user left them open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.bench.random_model import spec
from engine.config import EngineConfig
from engine.runner.memory import GPU_BUFFER_BYTES, fit_limits, kv_bytes_per_page

MODEL = replace(spec("8b"), max_context=131072)


def config(device: str = "cuda", **fields: Any) -> EngineConfig:
    values: dict[str, Any] = {
        "max_num_seqs": 256, "max_context": MODEL.max_context, "max_prefill_tokens": 512, "fits_rows": True,
        "fits_context": True,
    }  # fmt: skip
    return EngineConfig(torch.device(device), torch.bfloat16, **(values | fields))


def limits(tokens: int, **fields: Any) -> tuple[int, int]:
    """(rows, context) on a GPU whose free memory holds `tokens`."""
    given = config(**fields)
    free = GPU_BUFFER_BYTES + tokens // given.page_size * kv_bytes_per_page(MODEL, given)
    fitted = fit_limits(given, MODEL, free)
    return fitted.max_num_seqs, fitted.max_context


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1_000_000, (256, 131072)),
        (131072, (128, 131072)),
        (100_000, (96, 100_000)),
        (40_000, (32, 40_000)),
        (1_600, (8, 1_600)),
    ],
)
def test_a_gpu_gets_as_many_rows_and_as_long_contexts_as_its_memory_holds(
    tokens: int, expected: tuple[int, int]
) -> None:
    assert limits(tokens) == expected


def test_what_the_user_has_chosen_stays() -> None:
    assert limits(40_000, max_num_seqs=100, fits_rows=False) == (100, 40_000)
    assert limits(40_000, max_context=131072, fits_context=False) == (32, 131072)
    assert limits(40_000, max_context=4096) == (32, 4096)


def test_a_chosen_size_of_the_cache_counts_instead_of_free_memory() -> None:
    assert limits(1_000_000, num_kv_pages=2048) == (32, 32768)


def test_without_any_room_the_error_is_left_to_the_allocation() -> None:
    assert fit_limits(config(), MODEL, 0).max_context == 16


def test_every_rank_takes_the_smallest_number() -> None:
    given = config(world_size=2)
    fitted = fit_limits(given, MODEL, 1 << 40, lambda pages: min(pages, 4000))
    assert (fitted.max_num_seqs, fitted.max_context) == (32, 64000)


def test_a_cpu_holds_two_contexts_in_half_of_its_free_memory() -> None:
    given = config("cpu", max_num_seqs=8, fits_rows=False)
    page = kv_bytes_per_page(MODEL, given)
    assert fit_limits(given, MODEL, 4000 * page).max_context == 16000
    assert fit_limits(given, MODEL, 10**6 * page).max_context == 131072
    assert fit_limits(replace(given, world_size=1, max_context=2048), MODEL, 4000 * page).max_context == 2048
