"""Compiles grammars for one vocabulary, within bounds of time and memory, and matches replies token by token.

`compile` blocks the caller's thread. Other Python code runs meanwhile, except while llguidance reads the vocabulary,
once for each compiler. The engine thread advances the matchers. Knows llguidance and one tokenizer; knows no requests.
"""

import threading
from collections import OrderedDict
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from engine.errors import EngineError, clipped
from engine.logits_params import ConstraintFailed
from engine.structured_output.grammar import GrammarSpec, llguidance_grammar
from engine.tokenizers.base import Tokenizer

MAX_GRAMMAR_BYTES: Final = 1 << 16
_MAX_CACHED: Final = 32  # compiled grammars
_MAX_REASON: Final = 300  # characters of what llguidance says


class GrammarError(EngineError):
    """A grammar that llguidance cannot compile. The message says why."""


class GrammarCompiler:
    """Compiles grammars for one tokenizer and keeps the last ones. Any thread may use it."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> None:
        """`stop_ids`: the tokens that end a reply."""
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[GrammarSpec, LLMatcher] = OrderedDict()

    def compile(self, spec: GrammarSpec) -> "GrammarMatcher":
        """A matcher at the beginning of a reply. Raises GrammarError. Blocks."""
        if len(spec.text) > MAX_GRAMMAR_BYTES:
            raise GrammarError(f"it is longer than {MAX_GRAMMAR_BYTES} bytes")
        with self._lock:  # one at a time, so that their memory does not add up
            matcher = self._compiled.get(spec)
            if matcher is None:
                matcher = self._compiled[spec] = self._compile(spec)
                if len(self._compiled) > _MAX_CACHED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(spec)
            return GrammarMatcher(matcher.deep_copy(), self._stop_ids, self._tokenizer.vocab_size)

    def _compile(self, spec: GrammarSpec) -> LLMatcher:
        if self._vocabulary is None:
            self._vocabulary = _vocabulary(self._tokenizer, self._stop_ids)
        try:
            source = llguidance_grammar(spec)
        except ValueError as error:
            raise GrammarError(clipped(str(error), _MAX_REASON)) from None
        limits = LLParserLimits(
            max_grammar_size=200_000, max_lexer_states=50_000, initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000,
            step_max_items=50_000, verbose_errors=False,
        )  # fmt: skip
        matcher = LLMatcher(self._vocabulary, source, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # the first one, so that a grammar that is too large is refused now
        if matcher.is_error():
            raise GrammarError(clipped(matcher.get_error(), _MAX_REASON))
        return matcher


class GrammarMatcher:
    """A `TokenConstraint`: how far one reply has come in its grammar."""

    def __init__(self, matcher: LLMatcher, stop_ids: frozenset[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._only_stop = _mask_of(stop_ids, vocab_size)

    def mask(self) -> bytes:
        """See `TokenConstraint`. After an error only a stop token may follow; `check` then reports the error."""
        mask = b"" if self._matcher.is_error() else self._matcher.compute_bitmask()
        return self._only_stop if self._matcher.is_error() else mask

    def accept(self, token_id: int) -> bool:
        """See `TokenConstraint`."""
        self._matcher.consume_token(token_id)
        self.check()
        return self._matcher.is_stopped()

    def check(self) -> None:
        """See `TokenConstraint`."""
        if self._matcher.is_error():
            raise ConstraintFailed(clipped(self._matcher.get_error(), _MAX_REASON))


class _Words:
    """The tokenizer as llguidance wants it: the bytes of every id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_id
        self.bos_token_id = tokenizer.bos_id
        pieces = [tokenizer.piece(token_id) for token_id in range(tokenizer.vocab_size)]
        self.tokens = [
            (piece.encode() if isinstance(piece, str) else piece) or b"<%d>" % token_id
            for token_id, piece in enumerate(pieces)
        ]
        self.special_token_ids = [token_id for token_id, piece in enumerate(pieces) if not piece]

    def __call__(self, text: str | bytes) -> list[int]:
        """The ids of a text in the middle of another one, which a grammar demands word for word.

        SentencePiece puts a space before the first word of a text, so there is a line before it.
        """
        if isinstance(text, bytes):  # llguidance tries which of the two is taken
            raise TypeError("a text is needed")
        line = self._tokenizer.encode("\n")
        ids = self._tokenizer.encode(f"\n{text}")
        return ids[len(line) :] if ids[: len(line)] == line else self._tokenizer.encode(text)


def _vocabulary(tokenizer: Tokenizer, stop_ids: frozenset[int]) -> LLTokenizer:
    words = TokenizerWrapper(_Words(tokenizer))
    return LLTokenizer(words, n_vocab=tokenizer.vocab_size, eos_token=sorted(stop_ids))


def _mask_of(token_ids: frozenset[int], vocab_size: int) -> bytes:
    mask = bytearray(-(-vocab_size // 8))
    for token_id in token_ids:
        mask[token_id // 8] |= 1 << token_id % 8
    return bytes(mask)
