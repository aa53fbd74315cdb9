"""Slots are pinned in pieces, ahead of their use; ordinary memory stands for pinned memory."""

import time
from collections.abc import Callable

import pytest
import torch

from engine.layers.paged_kv import PagedKV
from engine.runner.cuda.host_tier import host_pages
from engine.runner.cuda.host_tier.host_pages import PinnedSlots

SLOT_BYTES = 1024


class OrdinaryMemory:
    """As `PinnedMemory`, without a GPU; `left`: pieces that can still be had, `held`: those that are not closed."""

    left = 1000
    held = 0

    def __init__(self, num_bytes: int) -> None:
        if not OrdinaryMemory.left:
            raise RuntimeError("out of memory")
        OrdinaryMemory.left -= 1
        OrdinaryMemory.held += 1
        self.bytes = torch.zeros(num_bytes, dtype=torch.uint8)

    def close(self) -> None:
        OrdinaryMemory.held -= 1


@pytest.fixture(autouse=True)
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_pages, "PinnedMemory", OrdinaryMemory)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(host_pages, "SEGMENT_BYTES", 4 * SLOT_BYTES + 100)
    monkeypatch.setattr(host_pages, "BYTES_AHEAD", 8 * SLOT_BYTES)
    monkeypatch.setattr(OrdinaryMemory, "left", 1000)
    monkeypatch.setattr(OrdinaryMemory, "held", 0)


def pinned(num_slots: int) -> PinnedSlots:
    return PinnedSlots(PagedKV(1, 9, 16, 1, 8, torch.float32, torch.device("cpu")), num_slots)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_ready(slots: PinnedSlots, count: int) -> None:
    wait_until(lambda: slots.num_ready == count)


def test_only_what_will_be_used_soon_is_pinned() -> None:
    slots = pinned(30)
    for used, ready in ((None, 8), (0, 12), (3, 12), (5, 16), (29, 30)):
        if used is not None:
            slots.use(used)
        wait_until_ready(slots, ready)
        time.sleep(0.02)
        assert slots.num_ready == ready
    slots.close()
    assert OrdinaryMemory.held == 0


def test_a_slot_larger_than_a_piece_is_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_pages, "SEGMENT_BYTES", SLOT_BYTES // 2)
    slots = pinned(3)
    wait_until_ready(slots, 3)
    pieces = [slots.piece(0, number, 1) for number in range(3)]
    assert [piece.data_ptr() for piece in pieces] == [memory.bytes.data_ptr() for memory in slots._memory]
    slots.close()


def test_where_no_more_can_be_pinned_the_rest_is_used(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(OrdinaryMemory, "left", 1)
    slots = pinned(100)
    wait_until(lambda: not slots._thread.is_alive())
    assert slots.num_ready == 4
    assert "room for 4 pages instead of 100" in capfd.readouterr().err
    slots.close()
    assert OrdinaryMemory.held == 0
