"""Log-probabilities of one response, as they leave with its text.

A token's entry is sent with the text that it began; tokens that a stop string cuts off have none. Knows the tokenizer;
knows neither requests nor HTTP.
"""

from collections import deque

from engine.logits_params import TokenLogprobs
from engine.server.protocol.logprobs import TokenLogprob, token_text
from engine.tokenizers.base import Tokenizer


class LogprobsQueue:
    """Entries of the tokens whose text has not left yet."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._waiting: deque[TokenLogprob] = deque()

    def push(self, token_id: int, logprobs: TokenLogprobs, offset: int) -> None:
        """The next token, before which the response has `offset` characters."""
        text, data = self._text(token_id)
        top = tuple((*self._text(likely), logprob) for likely, logprob in logprobs.top)
        self._waiting.append(TokenLogprob(text, data, logprobs.logprob, offset, top))

    def take(self, length: int) -> list[TokenLogprob]:
        """The entries of tokens that began before `length` characters."""
        taken = []
        while self._waiting and self._waiting[0].offset < length:
            taken.append(self._waiting.popleft())
        return taken

    def take_all(self) -> list[TokenLogprob]:
        """All entries that are left, at a natural end."""
        taken, self._waiting = list(self._waiting), deque()
        return taken

    def _text(self, token_id: int) -> tuple[str, bytes | None]:
        return token_text(token_id, self._tokenizer.piece(token_id))
