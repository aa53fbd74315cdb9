"""Slots are pinned in pieces, with pauses while steps run; ordinary memory stands for pinned memory."""

import time
from collections.abc import Callable

import pytest
import torch

from engine.layers.paged_kv import PagedKV
from engine.runner.cuda import host_pages
from engine.runner.cuda.host_pages import SEGMENT_BYTES, PinnedSlots, slots_of_segment

MIB = 1 << 20


@pytest.mark.parametrize("slot_bytes", [100, MIB, 2 * MIB, 5 * MIB, int(13.1 * MIB), 33 * MIB, 40 * MIB, 200 * MIB])
def test_little_of_what_is_pinned_stays_unused(slot_bytes: int) -> None:
    used = slots_of_segment(slot_bytes) * slot_bytes
    rounded = 1 << (used - 1).bit_length()
    assert rounded >= SEGMENT_BYTES
    assert used >= rounded * 7 / 8


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_closing_does_not_wait_for_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **options: empty(*shape, **options))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(host_pages, "SEGMENT_BYTES", 4096)
    monkeypatch.setattr(host_pages, "BYTES_AHEAD", 8192)
    monkeypatch.setattr(host_pages, "MAX_PINNING_SHARE", 1e-9)
    slots = PinnedSlots(PagedKV(1, 9, 16, 1, 8, torch.float32, torch.device("cpu")), 100)  # of 1 KiB each
    wait_until(lambda: slots.num_ready == 8)
    slots.steps_run = True
    slots.use(5)
    wait_until(lambda: slots.num_ready == 12 and not slots.steps_run)
    time.sleep(0.05)
    assert slots.num_ready == 12  # it pauses, although two more slots are wanted
    started = time.monotonic()
    slots.close()
    assert time.monotonic() - started < 5
