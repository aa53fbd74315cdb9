"""What the prompt of a turn was made of, and what it is built again from."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.types.dialogs import Pair, StoredFile
from models.types.keys import DialogKey
from models.types.memory import MemoryFact, Summary
from models.types.personas import PersonaText


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """What else a prompt depended on when it was built, so that it can be built again."""

    name: str = field(default="", repr=False)
    """How the member was called, where the persona could name them."""
    persona_name: str = field(default="", repr=False)
    context_length: int | None = None
    """Of the model, as far as it was known by then."""
    max_pairs: int = 0
    history_turn_id: int | None = None
    """The oldest pair that was read: a lorebook looks at all of them."""
    selected_turn_id: int | None = None
    """The oldest pair that the prompt was built with, before it had to be shorter."""
    prefix_chars: int = 0
    """Length of the reply so far that was continued."""
    num_files: int = 0
    num_images: int = 0
    cuts: tuple[int, ...] = ()
    """The characters to which the files were cut, each time that the prompt was too long."""
    message_digests: tuple[str, ...] = field(default=(), repr=False)
    """Short digests of the words of each message: they tell which one is another one now."""
    fact_digests: tuple[str, ...] = field(default=(), repr=False)
    """The same of the facts."""
    scene: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    """The characters that played, by persona and name."""


NO_INPUTS = PromptInputs()


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """What the prompt of a turn was made of, beside the words and files of the turn itself."""

    persona_id: int | None = None
    """None: the operator's default, whose text is `default_prompt`."""
    persona_version: int | None = None
    default_prompt: str | None = field(default=None, repr=False)
    first_turn_id: int | None = None
    """The oldest pair in it; None if it had none."""
    num_pairs: int = 0
    num_examples: int = 0
    greeting: int | None = None
    lore: tuple[int, ...] = ()
    summary_id: int | None = None
    fact_ids: tuple[int, ...] = ()
    digest: str | None = field(default=None, repr=False)
    """SHA-256 of the messages as they were sent; None: they were not recorded."""
    inputs: PromptInputs | None = None


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A turn with everything that its prompt was made of, as far as that still exists."""

    key: DialogKey
    turn_id: int
    dialog_id: int
    text: str = field(repr=False)
    reply: str = field(repr=False)
    author: str | None
    files: tuple[StoredFile, ...]
    record: PromptRecord
    persona: PersonaText | None
    history: tuple[Pair, ...]
    """The pairs of `PromptInputs.history_turn_id` and after."""
    summary: Summary | None
    facts: tuple[MemoryFact, ...]
    """In the order in which they stood in the prompt."""
    is_newest_reply: bool = True
    """Whether the reply in use is the one that was written last."""


@dataclass(frozen=True, slots=True)
class PromptUsed:
    """The record of a turn's prompt with what it refers to, as far as that still exists."""

    record: PromptRecord
    persona_name: str | None
    """None: the operator's default, or a persona that was deleted since."""
    num_before: int
    """Pairs of the dialog before the turn: those above `num_pairs` were cut."""
    facts: tuple[MemoryFact, ...]
    summary: Summary | None
