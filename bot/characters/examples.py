"""The example conversations of a card (`mes_example`) as pairs of messages. Pure.

Each begins with `<START>`; a line that begins with a name and a colon begins a message. What has no such lines is no
conversation, and goes to the description of the character instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bot.characters.macros import Macros, expand

MAX_PAIRS = 100
MAX_CHARS = 40_000
MARK = "[Example]"
"""Marks each user's message of an example: no member wrote it."""
_OPENING = "(the conversation goes on)"
_START = re.compile(r"^[ \t]*<START>[ \t]*$|<START>", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs of what a user and what the character says, and what is no conversation."""

    pairs: tuple[tuple[str, str], ...] = ()
    prose: str = ""


def read_examples(text: str, name: str, nickname: str, macros: Macros) -> Examples:
    """The examples in this text. Macros are replaced after the lines are told apart, so that no name divides them."""
    line = _speaker_line(name, nickname)
    pairs: list[tuple[str, str]] = []
    prose: list[str] = []
    for block in _START.split(text[:MAX_CHARS]):
        messages = _messages(block, line)
        if not any(role == "char" for role, _ in messages):
            prose.append(block.strip())
            continue
        pairs.extend(_pairs([(role, expand(content, macros).strip()) for role, content in messages]))
    return Examples(tuple(pairs[:MAX_PAIRS]), expand("\n\n".join(each for each in prose if each), macros).strip())


def _speaker_line(name: str, nickname: str) -> re.Pattern[str]:
    names = "|".join(re.escape(each) for each in {name, nickname} if each)
    return re.compile(
        rf"^[ \t]*(?:(\{{\{{user\}}\}}|<user>)|(\{{\{{char\}}\}}|<bot>|<char>|{names}))[ \t]*:", re.I | re.M
    )


def _messages(block: str, line: re.Pattern[str]) -> list[tuple[str, str]]:
    """Who says what, with what one says in several lines as one."""
    messages: list[tuple[str, str]] = []
    found = list(line.finditer(block))
    for number, match in enumerate(found):
        end = found[number + 1].start() if number + 1 < len(found) else len(block)
        role, content = "user" if match[1] else "char", block[match.end() : end].strip()
        if messages and messages[-1][0] == role:
            messages[-1] = (role, f"{messages[-1][1]}\n{content}")
        else:
            messages.append((role, content))
    return messages


def _pairs(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each message of the character with what was said before it; a last message without an answer is left out."""
    pairs: list[tuple[str, str]] = []
    said = _OPENING
    for role, content in messages:
        if role == "user":
            said = content
        elif content:
            pairs.append((f"{MARK}\n{said}", content))
            said = _OPENING
    return pairs
