"""Pieces of an arena lie apart, in memory for which huge pages are asked for."""

import itertools
import mmap
import sys
from pathlib import Path

import pytest
import torch

from engine.runner.cpu.huge_pages import ALIGNMENT, CHUNK_BYTES, HugePageArena, advise


def flags_at(address: int) -> list[str]:
    """What Linux has noted of the memory at an address; "hg" where huge pages were asked for."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if last:
            inside = int(first, 16) <= address < int(last, 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no such address")


def test_pieces_lie_apart_and_begin_with_a_cache_line() -> None:
    arena, sizes = HugePageArena(), [1, 64, 1000, CHUNK_BYTES - 1, CHUNK_BYTES + 5, 3, 100_000]
    pieces = [arena.empty(size) for size in sizes]
    for number, piece in enumerate(pieces):
        assert piece.shape == (sizes[number],)
        assert piece.data_ptr() % ALIGNMENT == 0
        piece[:1] = piece[-1:] = number
    assert [(int(piece[0]), int(piece[-1])) for piece in pieces] == [(number, number) for number in range(len(sizes))]
    spans = sorted((piece.data_ptr(), piece.data_ptr() + len(piece)) for piece in pieces)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what was asked for")
def test_huge_pages_are_asked_for() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("a kernel without huge pages")
    assert "hg" in flags_at(HugePageArena().empty(100).data_ptr())
    other = torch.frombuffer(mmap.mmap(-1, CHUNK_BYTES), dtype=torch.uint8)  # memory that nobody has used before
    middle = other.data_ptr() + CHUNK_BYTES // 2
    assert "hg" not in flags_at(middle)
    advise(other)
    assert "hg" in flags_at(middle)
    advise(other[:100])  # not a whole page
