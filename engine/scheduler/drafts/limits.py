"""What a runner verifies in a step, and what it costs there. Data only."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """Costs are in steps that decode one token of one row."""

    max_drafts: int = 0  # of one row in one step; 0: this runner verifies none
    cost: float = 1.0  # of one more token
    first_cost: float = 0.0  # of a step with drafts, besides its tokens, where a single row decodes
    max_tokens: int | None = None  # of a step with drafts, decoding rows included; None: the prompts' budget limits it
    beside_prompts: bool = True  # a step that prefills may verify drafts


NO_DRAFTS: Final = DraftLimits()
