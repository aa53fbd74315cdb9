"""Log-probabilities in the two shapes of OpenAI's API: of chat completions, and of plain completions.

Knows tokens as text and bytes; knows no tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Likely = tuple[str, bytes | None, float]  # a token, its bytes, its log-probability


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of a response. `offset`: characters of the response before it; `top`: the likeliest first."""

    token: str
    data: bytes | None
    logprob: float
    offset: int
    top: tuple[Likely, ...] = ()


def token_text(token_id: int, piece: bytes | str) -> tuple[str, bytes | None]:
    """A token as text and bytes. One without text is `token_id:N`, as in vLLM; a part of a character `bytes:\\xNN`."""
    if not piece:
        return f"token_id:{token_id}", None
    data = piece.encode() if isinstance(piece, str) else piece
    try:
        return data.decode(), data
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data


def chat_logprobs(logprobs: Sequence[TokenLogprob] | None) -> dict[str, object] | None:
    """The `logprobs` object of a choice of a chat completion."""
    if logprobs is None:
        return None
    content = [
        {**_entry(each.token, each.data, each.logprob), "top_logprobs": [_entry(*likely) for likely in each.top]}
        for each in logprobs
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(logprobs: Sequence[TokenLogprob] | None) -> dict[str, object] | None:
    """The `logprobs` object of a choice of a plain completion. As at OpenAI, the sampled token is among the top."""
    if logprobs is None:
        return None
    return {
        "text_offset": [each.offset for each in logprobs],
        "token_logprobs": [each.logprob for each in logprobs],
        "tokens": [each.token for each in logprobs],
        "top_logprobs": [
            {**{token: logprob for token, _, logprob in each.top}, each.token: each.logprob} for each in logprobs
        ],
    }


def _entry(token: str, data: bytes | None, logprob: float) -> dict[str, object]:
    return {"token": token, "logprob": logprob, "bytes": None if data is None else list(data)}
