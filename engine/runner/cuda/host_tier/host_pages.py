"""The host tier of a GPU: slots in pinned memory, and copies on a stream of their own beside the steps.

All copies run on one stream, in the order of the plans, so they need not wait for each other explicitly. That stream
waits for the steps launched before a plan. A step waits for copies only if a row that computes in it needs it
(`copy_dependencies.py`). The host waits for nothing. Only duplicates of pages are made on the steps' stream.

It knows plans, streams and events. It does not know what a page contains.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from engine.layers.paged_kv import PagedKV
from engine.runner.cuda.host_tier.copy_dependencies import CopyDependencies
from engine.runner.cuda.host_tier.pinned_memory import PinnedMemory
from engine.runner.cuda.host_tier.staging_memory import StagingMemory
from engine.runner.page_images import PageImages, split_image
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.step_plan import StepPlan

SEGMENT_BYTES: Final = 64 << 20  # pinned at a time, or one slot
BYTES_AHEAD: Final = 4 << 30  # pinned before they are needed: pinning takes about as long as filling


class PinnedSlots:
    """Pinned memory for slots. A thread pins it, which takes seconds, while the engine serves: only as it is needed."""

    def __init__(self, kv: PagedKV, num_slots: int) -> None:
        self.num_ready = 0
        self._num_slots, self._parts = num_slots, kv.parts
        self._part_bytes = [part[0].numel() * part.itemsize for part in kv.parts]
        slot_bytes = sum(self._part_bytes)
        self._slots_of_segment = max(1, SEGMENT_BYTES // slot_bytes)
        self._memory: list[PinnedMemory] = []
        self._segments: list[list[Tensor]] = []
        self._num_slots_ahead = max(self._slots_of_segment, BYTES_AHEAD // slot_bytes)
        self._num_used = 0  # slots below this number have been used
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._pin, name="host tier", daemon=True)
        if num_slots:
            self._thread.start()

    def close(self) -> None:
        """Free the memory. No copy may be running."""
        self._closed.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._segments.clear()
        while self._memory:
            self._memory.pop().close()

    def use(self, slot: int) -> None:
        """The slot is written to; let the thread pin some more beyond it."""
        if slot >= self._num_used:
            self._num_used = slot + 1
            self._wake.set()

    def piece(self, part: int, first: int, count: int) -> Tensor:
        """A part of `count` slots of one segment, from slot `first` on."""
        at = first % self._slots_of_segment
        return self._segments[first // self._slots_of_segment][part][at : at + count]

    def runs(self, pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """(slot, page, count) for pairs (slot, page), where neighbours in both become one."""
        start, count = 0, 0
        for index, (slot, page_id) in enumerate(pairs):
            follows = count and pairs[start] == (slot - count, page_id - count)
            if follows and slot % self._slots_of_segment:
                count += 1
                continue
            if count:
                yield (*pairs[start], count)
            start, count = index, 1
        if count:
            yield (*pairs[start], count)

    def _pin(self) -> None:
        try:
            torch.cuda.set_device(self._parts[0].device)
            while self.num_ready < self._num_slots:
                while self.num_ready >= self._num_used + self._num_slots_ahead and not self._closed.is_set():
                    self._wake.wait()
                    self._wake.clear()
                if self._closed.is_set():
                    return
                count = min(self._slots_of_segment, self._num_slots - self.num_ready)
                memory = PinnedMemory(count * sum(self._part_bytes))
                self._memory.append(memory)
                pieces = torch.split(memory.bytes, [count * size for size in self._part_bytes])
                self._segments.append(
                    [
                        piece.view(part.dtype).view(count, *part.shape[1:])
                        for piece, part in zip(pieces, self._parts, strict=True)
                    ]
                )
                self.num_ready += count
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            sys.stderr.write(
                f"engine: the host tier has room for {self.num_ready} pages instead of {self._num_slots}, as no more "
                f"memory can be pinned ({reason}); --kv-host-memory makes it smaller\n"
            )
            sys.stderr.flush()


class CudaHostPages:
    """The slots, and the copies that steps may have to wait for."""

    def __init__(self, kv: PagedKV, num_slots: int, device: torch.device) -> None:
        self._kv, self._slots, self._staging = kv, PinnedSlots(kv, num_slots), StagingMemory()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._zeros: list[Tensor] = []
        self._dependencies = CopyDependencies()
        self.last_event: torch.cuda.Event | None = None  # after the last plan's copies
        self._done: dict[int, torch.cuda.Event] = {}  # by batch, those that were not waited for

    @property
    def num_ready(self) -> int:
        """Slots that can be used."""
        return self._slots.num_ready

    def launch(self, plan: StepPlan) -> None:
        """Launch the plan's copies, and let its step wait for those it depends on. The steps' stream is current."""
        steps = torch.cuda.current_stream()
        if (early := self._dependencies.batch_before_duplicates(plan.copies)) is not None:
            steps.wait_event(self._done[early])
        for pages in self._kv.parts:
            for source, target in plan.copies.duplicates:
                pages[target].copy_(pages[source], non_blocking=True)
        batch = self._dependencies.batch_to_wait_for(plan)
        if plan.copies:
            self._stream.wait_event(steps.record_event())
            with torch.cuda.stream(self._stream):
                self._copy(plan.copies)
                self.last_event = self._stream.record_event()
            self._done[self._dependencies.last_batch] = self.last_event
        if batch is not None:
            steps.wait_event(self._done[batch])
            self._done = {number: event for number, event in self._done.items() if number > batch}

    def export(self, places: Sequence[tuple[int, int]]) -> PageImages:
        """Copies of (page, slot): the page, or the slot where the page is -1. The steps' stream is current.

        They are made on that stream, after the copies of all plans, so that no step and no plan comes between.
        """
        steps = self._wait_for_copies(any(page_id < 0 for page_id, _ in places))
        sizes = [len(places) * pages[0].numel() * pages.itemsize for pages in self._kv.parts]
        memory = self._staging.take(sum(sizes))
        pieces = torch.split(memory.bytes[: sum(sizes)], sizes)
        copies = []
        for part, (pages, piece) in enumerate(zip(self._kv.parts, pieces, strict=True)):
            copy = piece.view(pages.dtype).view(len(places), *pages.shape[1:])
            for row, (page_id, slot) in zip(copy, places, strict=True):
                source = pages[page_id] if page_id >= 0 else self._slots.piece(part, slot, 1)[0]
                row.copy_(source, non_blocking=True)
            copies.append(copy)
        images = PageImages(copies, steps.record_event(), self._kv.pages.device)
        weakref.finalize(images, self._staging.give_back, memory).atexit = False
        return images

    def import_(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """Write what `export` has copied to other pages or slots. The steps' stream is current."""
        self._wait_for_copies(any(page_id < 0 for page_id, _ in places))
        for (page_id, slot), image in zip(places, images, strict=True):
            for part, content in enumerate(split_image(image, self._kv.parts)):
                target = self._kv.parts[part][page_id] if page_id >= 0 else self._slots.piece(part, slot, 1)[0]
                target.copy_(content)  # waits, as the content is not in pinned memory
            if page_id < 0:
                self._slots.use(slot)

    def _wait_for_copies(self, reads_slots: bool) -> torch.cuda.Stream:
        """Let the steps' stream, which is returned, or even the host wait for the copies of all plans."""
        steps = torch.cuda.current_stream()
        if reads_slots:
            self._stream.synchronize()
        elif self.last_event is not None:
            steps.wait_event(self.last_event)
        return steps

    def close(self) -> None:
        """Free the slots and what `export` has used."""
        self._stream.synchronize()
        self._slots.close()
        self._staging.close()

    def _copy(self, copies: PageCopies) -> None:
        kv, slots = self._kv, self._slots
        for part, pages in enumerate(kv.parts):
            for page_id in copies.overwritten_pages:
                pages[page_id].zero_()
            for slot in copies.overwritten_slots:
                slots.piece(part, slot, 1)[0].copy_(self._zero_page(part), non_blocking=True)
            for slot, page_id, count in slots.runs(copies.restores):
                pages[page_id : page_id + count].copy_(slots.piece(part, slot, count), non_blocking=True)
            for slot, page_id, count in slots.runs([(slot, page_id) for page_id, slot in copies.saves]):
                slots.piece(part, slot, count).copy_(pages[page_id : page_id + count], non_blocking=True)
        slots.use(max((slot for _, slot in copies.saves), default=-1))

    def _zero_page(self, part: int) -> Tensor:
        """Zeros on the device, from which a slot is overwritten: the host would take longer, and wait."""
        if not self._zeros:
            self._zeros = [torch.zeros_like(pages[0]) for pages in self._kv.parts]
        return self._zeros[part]
