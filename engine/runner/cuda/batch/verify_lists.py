"""A step that verifies drafts, as the integers that a GPU takes: which token is whose, and what attends together.

All rows of such a step stand side by side: those with drafts first, then those that only decode. It deals in integers,
and does not know where the rows are.
"""

from __future__ import annotations

from engine.kernels.attention.split_kv import MAX_SPLITS
from engine.kernels.attention.verify_attention import VERIFY_ITEM
from engine.kernels.verification import RUN
from engine.runner.cuda.batch.verify_limits import VerifyLimits
from engine.scheduler.step_plan import StepPlan


def num_tokens(plan: StepPlan) -> int:
    """Tokens of a step that decodes."""
    return sum(each.num_samples for each in plan.verifications) + len(plan.decode_rows)


def verify_lists(plan: StepPlan, tokens: int, limits: VerifyLimits) -> dict[str, list[int]]:
    """What a step of `tokens` tokens reads, by the region of the input buffer. See the kernels for what it means."""
    rows, offsets, drafts, runs = list[int](), list[int](), list[int](), list[int]()
    blocks: list[tuple[int, int, int, int]] = []  # of tokens that attend together: row, first, number, offset
    guesses: list[tuple[int, tuple[int, ...]]] = [(each.row, each.drafts) for each in plan.verifications]
    guesses += [(row, ()) for row in plan.decode_rows]
    for row, guessed in guesses:
        first, count = len(rows), 1 + len(guessed)
        rows += [row] * count
        offsets += range(count)
        drafts += (0, *guessed)
        runs += (row, first, count, 0)
        for offset in range(0, count, limits.queries):
            blocks.append((row, first + offset, min(limits.queries, count - offset), offset))
    splits = max(1, min(MAX_SPLITS, limits.items // max(1, len(blocks))))
    items = [(*block, split, splits, *[0] * (VERIFY_ITEM - 6)) for block in blocks for split in range(splits)]
    unused, unused_runs = tokens - len(rows), limits.max_runs(tokens) - len(runs) // RUN
    unused_items = limits.max_items(tokens) - len(items)
    return {
        "verify_rows": [*rows, *[-1] * unused],
        "verify_offsets": [*offsets, *[0] * unused],
        "verify_drafts": [*drafts, *[0] * unused],
        "verify_sources": list(range(tokens)),
        "verify_runs": [*runs, *[-1, 0, 0, 0] * unused_runs],
        "verify_items": [number for item in items for number in item] + [-1, *[0] * (VERIFY_ITEM - 1)] * unused_items,
    }
