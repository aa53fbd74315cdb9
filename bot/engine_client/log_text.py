"""What the operator's log may have of a server's words: short, on one line, without keys and without members' words.

Servers repeat what they were sent, whole or in pieces, in capitals or escaped. Each word that was sent is cut, except
those that explain errors, and so is each run of characters. Pure functions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bot.engine_client.refusals.refusal import one_line

_INPUT = re.compile(r"""['"]?\b(?:input(?:_value)?|ctx)['"]?\s*[=:]\s*(?:'[^']*'|"[^"]*"|[^,;\]})]*)""")
_KEY = re.compile(r"\b(?:sk|hf|gsk|key|Bearer)[-_ ][\w*.-]{6,}")
_DATA = re.compile(
    r"data:[\w/+.-]{1,40};base64,[\w+/=…-]*"
    r"|(?=[a-zA-Z+/]{0,50}\d)(?=[a-z\d+/]{0,50}[A-Z])(?=[A-Z\d+/]{0,50}[a-z])[A-Za-z\d+/]{60,}={0,2}"
)
"""Bytes in base64: a picture of a member, as a server may repeat it."""
_LOG_CHARS = 200
_ECHO_CHARS = 10
_ECHO_STEP = 3  # so that a run of 12 characters is always found, in a third of the searches
_ESCAPE = re.compile(r"\\[nrt]")
_WORD = re.compile(r"[^\W\d_]{3,}|\d{5,}")
_WORDS_OF_ERRORS = frozenset(
    re.findall(
        r"\w+",
        """
    the and for not are was has have had can cannot could may must should will would with without this that
    these those your you its from than then too only more less most least any all one two out over under into
    per when while what which error errors invalid unknown unsupported unexpected unrecognized missing wrong bad
    request requests response server model models message messages role roles system user assistant content
    prompt input inputs output token tokens context length limit limits maximum minimum max min size window
    large long short longer exceeds exceeded exceed required allowed permitted supported value values type field
    fields parameter parameters argument arguments extra property key api rate quota balance billing policy
    filter safety temperature top stop seed stream streaming options cache salt must between greater equal
    string number integer list object null true false please try again later use instead reduce completion
    memory internal timeout failed failure found exist exists does did available loaded loading alternate
    conversation template chat http json html page proxy gateway service unavailable
    """,
    )
)


def for_log(text: str, sent: Sequence[str] = ()) -> str:
    """A server's words as the log may have them: one short line, without what they repeat of the request (`sent`)."""
    text = _KEY.sub("[…]", _INPUT.sub("", one_line(_ESCAPE.sub(" ", _DATA.sub("[…]", text[:4000])))))
    return _without_echo(text[: _LOG_CHARS + 50], sent)[:_LOG_CHARS]


def _without_echo(text: str, sent: Sequence[str]) -> str:
    """Cut every run of characters that also stands in what was sent, plain or as JSON or Python would escape it."""
    for whole in {one_line(value) for value in sent}:
        if 0 < len(whole) <= 2 * _ECHO_CHARS:  # also a short message, as a word of its own
            text = re.sub(rf"(?<!\w){re.escape(whole)}(?!\w)", "[…]", text)
    words = {word.lower() for value in sent for word in _WORD.findall(value)} - _WORDS_OF_ERRORS
    text = _WORD.sub(lambda word: "[…]" if word[0].lower() in words else word[0], text)
    plain = "\n".join(one_line(value) for value in sent)
    escaped = "" if plain.isascii() and not re.search(r"[\"'\\]", plain) else json.dumps(plain) + repr(plain)
    if not plain:
        return text
    echoed = [False] * len(text)
    for start in range(0, len(text) - _ECHO_CHARS + 1, _ECHO_STEP):
        window = text[start : start + _ECHO_CHARS]
        if whole_text := next((known for known in (plain, escaped) if window in known), None):
            first, last = start, start + _ECHO_CHARS
            while first > 0 and text[first - 1 : last] in whole_text:
                first -= 1
            while last < len(text) and text[first : last + 1] in whole_text:
                last += 1
            echoed[first:last] = [True] * (last - first)
    kept = "".join("\x00" if cut else character for character, cut in zip(text, echoed, strict=True))
    return re.sub(r"(?:\[…\][\W_]*)+\[…\]", "[…]", re.sub("\x00+", "[…]", kept))
