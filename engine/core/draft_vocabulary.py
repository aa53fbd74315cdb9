"""Whether a draft model has the vocabulary of the model that verifies what it says: drafts are token ids.

It knows tokenizers and files, and reads no weights.
"""

from pathlib import Path

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import SPECULATE
from engine.errors import ConfigError, clipped
from engine.tokenizers.base import Tokenizer


def open_draft_model(path: Path) -> Checkpoint:
    """The draft model's checkpoint. ConfigError that names the flag: a misspelt mode is taken for a path."""
    try:
        return open_checkpoint(path)
    except ConfigError as error:
        modes = ", ".join(SPECULATE)
        raise ConfigError("--speculate", expected=f"{modes}, or a draft model", found=str(error)) from error


def check_draft_model(path: Path, checkpoint: Checkpoint) -> None:
    """Raises ConfigError if the model at `path` cannot draft for `checkpoint`."""
    draft = open_draft_model(path)
    try:
        other = difference(checkpoint.tokenizer(), draft.tokenizer())
    finally:
        draft.close()
    if other is not None:
        raise ConfigError(
            "--speculate",
            expected=f"ngram, off, or a smaller model with the vocabulary of {checkpoint.path.name}",
            found=f"{path}, where {other}",
        )


def difference(tokenizer: Tokenizer, draft: Tokenizer) -> str | None:
    """The first token that stands for other text, for people; None if ids mean the same in both vocabularies.

    Control tokens and padding may differ: a wrong one is a draft that is refused.
    """
    for token_id in range(max(tokenizer.vocab_size, draft.vocab_size)):
        one, other = _bytes(tokenizer.piece(token_id)), _bytes(draft.piece(token_id))
        if one != other:
            return f"token {token_id} is {clipped(repr(other), 40)} instead of {clipped(repr(one), 40)}"
    return None


def _bytes(piece: bytes | str) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece
