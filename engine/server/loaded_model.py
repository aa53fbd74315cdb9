"""The model that a server answers with. A separate module, so that it can be passed around before torch is imported."""

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
    """A started engine, and what turns text into its token ids and back. `encoder` is for texts of any length.

    `template`: the chat format again, if it is a template. That is a program of whoever made the model, so it runs on
    another thread than the event loop's.
    """

    engine: "EngineCore"
    tokenizer: "Tokenizer"
    encoder: "PiecewiseEncoder"
    chat: "ChatFormat"
    max_context: int
    template: "TemplatedFormat | None" = None
