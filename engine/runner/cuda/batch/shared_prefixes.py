"""Which decoding rows share the beginning of their contexts, and how the reading of it is divided among programs.

The host has granted the pages, so it knows which rows hold the same ones. Rows are grouped anew only when the decoding
rows change or one of them gets another context. It knows page ids and lengths, and no tensor on a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.config import EngineConfig
from engine.kernels.attention.prefix_work import MAX_PARTS
from engine.runner.cuda.batch.prefix_limits import PrefixLimits
from engine.scheduler.step_plan import StepPlan

MIN_PART: Final = 128  # tokens that are worth a program


@dataclass(frozen=True, slots=True)
class PrefixGroups:
    """The shared prefixes of a step, as integers. See `engine/kernels/attention/prefix_work.py`."""

    slots: tuple[tuple[int, int], ...]  # (tokens, parts), by slot
    members: tuple[int, ...]  # slots
    items: tuple[tuple[int, int, int, int, int], ...]  # first member, members, start, end, part


@dataclass(slots=True)
class _Node:
    """Neighbours in the order of their page tables, from `first` on, that share `pages` pages."""

    pages: int
    first: int
    saved: int = 0  # by the best groups within it: pages that need not be read
    groups: list[tuple[int, int, int]] = field(default_factory=list)  # first, end, pages

    def add(self, inner: _Node) -> None:
        """The groups of a complete node within this one."""
        self.saved += inner.saved
        self.groups = self.groups + inner.groups


class SharedPrefixes:
    """Follows the plans of all steps. `groups` says what the decoding rows of the last one share."""

    def __init__(self, limits: PrefixLimits, config: EngineConfig) -> None:
        self._limits, self._page_size = limits, config.page_size
        self._tables = np.zeros((config.max_num_seqs, config.max_pages_per_seq), dtype=np.int32)
        self._computed = np.zeros(config.max_num_seqs, dtype=np.int64)  # lower bound on the tokens, by row
        self._unit = math.lcm(limits.tile, config.page_size)  # tokens that every part of a prefix has a multiple of
        self._min_pages = -(-limits.min_tokens // self._unit) * self._unit // config.page_size
        self._rows: tuple[int, ...] = ()
        self._changed: set[int] = set()
        self._groups: PrefixGroups | None = None

    def update(self, plan: StepPlan) -> None:
        """Rows get other contexts."""
        for row in (*plan.freed_rows, *(sequence.row for sequence in plan.new_sequences)):
            self._computed[row] = 0
            self._changed.add(row)
        for row, index, page_id in plan.page_grants:
            self._tables[row, index] = page_id
            if index * self._page_size < self._computed[row]:
                self._changed.add(row)
        for chunk in plan.chunks:
            self._computed[chunk.row] = chunk.start + len(chunk.token_ids)
            self._changed.add(chunk.row)

    def groups(self, decode_rows: tuple[int, ...]) -> PrefixGroups | None:
        """The groups of a step of these rows; None if nothing is worth reading once. The same object while it holds."""
        if decode_rows != self._rows or not self._changed.isdisjoint(decode_rows):
            self._groups = self._group(decode_rows)
            self._rows = decode_rows
            self._changed.clear()
        return self._groups

    def _group(self, rows: tuple[int, ...]) -> PrefixGroups | None:
        if len(rows) < self._limits.min_members or self._min_pages > self._tables.shape[1]:
            return None
        by_slot = np.array(rows)
        pages = self._computed[by_slot] // self._page_size  # whole ones, before the row's new token
        # Rows that share nothing are told by their page at the shortest length, most of the time.
        column = self._tables[by_slot, self._min_pages - 1]
        ids, counts = np.unique(column, return_counts=True)
        often = np.isin(column, ids[counts >= self._limits.min_members])
        slots = np.flatnonzero(often & (pages >= self._min_pages))
        if len(slots) < self._limits.min_members:
            return None
        ordered, shared = self._sorted(by_slot, slots, pages[slots])
        found = self._best_groups(shared.tolist())
        return self._divide(len(rows), [(ordered[first:end].tolist(), count) for first, end, count in found])

    def _sorted(
        self, by_slot: NDArray[np.int64], slots: NDArray[np.int64], pages: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The slots in the order of their page tables, and how many pages each has in common with the next."""
        width = int(pages.max())
        own = (-1 - slots[:, None]).astype(np.int32)  # beyond its whole pages a row shares nothing
        tables = np.where(np.arange(width) < pages[:, None], self._tables[by_slot[slots], :width], own)
        keys = [table.tobytes() for table in tables]
        order = sorted(range(len(slots)), key=keys.__getitem__)
        tables = tables[order]
        same = tables[1:] == tables[:-1]
        shared = np.where(same.all(1), width, same.argmin(1))
        unit = self._unit // self._page_size
        return slots[order], shared // unit * unit

    def _best_groups(self, shared: list[int]) -> list[tuple[int, int, int]]:
        """Groups (first, end, pages) that save the most reads: one of all rows that share a little, or some of few rows
        that share more. `shared` is what neighbours have in common.
        """
        open_nodes: list[_Node] = []  # each within the one before
        for place, pages in enumerate([*shared, -1]):
            node = _Node(pages, place)
            while open_nodes and open_nodes[-1].pages > pages:
                inner = open_nodes.pop()
                self._close(inner, place + 1)
                if open_nodes and open_nodes[-1].pages >= pages:
                    open_nodes[-1].add(inner)
                else:
                    node = _Node(pages, inner.first, inner.saved, inner.groups)
            if not open_nodes or open_nodes[-1].pages < pages:
                open_nodes.append(node)
        return open_nodes[-1].groups

    def _close(self, node: _Node, end: int) -> None:
        """The node is complete: all its rows are one group if that saves more than the groups within it."""
        members = end - node.first
        if members < self._limits.min_members or node.pages < self._min_pages:
            return
        saved = (members - -(-members // self._limits.max_members)) * node.pages
        if saved > node.saved:
            node.saved, node.groups = saved, [(node.first, end, node.pages)]

    def _divide(self, num_slots: int, groups: list[tuple[list[int], int]]) -> PrefixGroups | None:
        """Divide groups (slots, pages) into items: members that fit one, and parts of about equal length."""
        if not groups:
            return None
        limits, unit = self._limits, self._unit
        num_chunks = [-(-len(slots) // limits.max_members) for slots, _ in groups]
        total = sum(count * pages for count, (_, pages) in zip(num_chunks, groups, strict=True)) * self._page_size
        per = max(MIN_PART, -(-total // limits.items))
        by_slot, members = [(0, 0)] * num_slots, list[int]()
        items: list[tuple[int, int, int, int, int]] = []
        for (slots, pages), chunks in zip(groups, num_chunks, strict=True):
            tokens = pages * self._page_size
            length = -(-tokens // min(MAX_PARTS, -(-tokens // per)))
            length = -(-length // unit) * unit
            starts = range(0, tokens, length)
            for slot in slots:
                by_slot[slot] = (tokens, len(starts))
            bounds = [len(slots) * chunk // chunks for chunk in range(chunks + 1)]
            for first, end in pairwise(bounds):
                items += [
                    (len(members) + first, end - first, start, min(start + length, tokens), part)
                    for part, start in enumerate(starts)
                ]
            members += slots
        return PrefixGroups(tuple(by_slot), tuple(members), tuple(items))
