"""The model that a server answers with: engine, tokenizer and chat format. Knows them as types only.

A separate module, so that others can name the type before torch is imported.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.chat.formats import ChatFormat
    from engine.chat.templated import TemplatedFormat
    from engine.core.engine_core import EngineCore
    from engine.tokenizers.base import Tokenizer
    from engine.tokenizers.piecewise import PiecewiseEncoder


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A started engine, and what turns text into its token ids and back. `encoder` is for texts of any length."""

    engine: "EngineCore"
    tokenizer: "Tokenizer"
    encoder: "PiecewiseEncoder"
    chat: "ChatFormat"
    max_context: int

    @property
    def template(self) -> "TemplatedFormat | None":
        """The chat format if it is the model's template: a program by strangers, run on a thread of its own."""
        from engine.chat.templated import TemplatedFormat

        return self.chat if isinstance(self.chat, TemplatedFormat) else None
