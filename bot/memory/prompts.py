"""What a model is asked when it writes notes, and how its answer is read. Pure functions.

The examples make the difference for small models: without them half of the facts are missed. A server that knows no
`response_format` gets the same prompt, and its answer is read leniently; nonsense is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bot.engine_client.messages import Message
from bot.memory.cleaning import MAX_FACT, MAX_LINE, MAX_SUMMARY
from bot.short_answers import json_format
from models.types import RememberedPair

MAX_FACTS_OF_MESSAGE = 4
FACT_TOKENS, SUMMARY_TOKENS = 160, 200
_MAX_READ = 1500
"""Characters of one message that are read for notes."""
_FACTS = (
    "You keep notes about a person. You read a message that the person wrote to a chatbot, and list what it says about "
    "the person that will still be true next month: name, home, family, pets, work, health, likes, dislikes, plans, "
    "habits. Each note is one short sentence about the user, in the language of the message. A question, a request, a "
    "greeting or general knowledge gives no note. Answer with JSON."
)
_FACT_EXAMPLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("My name is Lea and I study law in Graz.", ("The user's name is Lea.", "The user studies law in Graz.")),
    ("Now translate that into French.", ()),
    ("I can't eat shellfish, it makes me sick.", ("The user cannot eat shellfish.",)),
    ("my brother has a boat, we go sailing every sunday",
     ("The user's brother has a boat.", "The user goes sailing every Sunday.")),
    ("Write a short poem about a red horse.", ()),
    ("I've got an exam in chemistry on Friday and I hate it.",
     ("The user has an exam in chemistry on Friday.", "The user hates chemistry.")),
    ("Ich spiele seit zwei Jahren Gitarre.", ("Der Nutzer spielt seit zwei Jahren Gitarre.",)),
    ("Tell me a story about pirates.", ()),
    ("I ride an old blue bike to work.", ("The user rides an old blue bike to work.",)),
    ("Thanks, that helps a lot!", ()),
    ("저는 부산에 살고 고양이 두 마리를 키워요.",
     ("사용자는 부산에 산다.", "사용자는 고양이 두 마리를 키운다.")),
    ("My father sells shoes, and I run ten kilometres before work.",
     ("The user's father sells shoes.", "The user runs ten kilometres before work.")),
    ("We've got two daughters, both love football.", ("The user has two daughters who love football.",)),
)  # fmt: skip
_SUMMARY = (
    "You keep the minutes of a conversation between a user and an assistant. You read a part of it and write in one or "
    "two short sentences what it was about: what the user said and wanted, and what the assistant answered. In the "
    "language of the user. Answer with JSON."
)
_SUMMARY_EXAMPLES: tuple[tuple[str, str], ...] = (
    ("User: Which train goes to Graz?\nAssistant: The IC 534 at 9:12, from platform 4.\n"
     "User: And back on Sunday?\nAssistant: At 17:03, you change in Bruck.\n"
     "User: I'm Lea, can you book it?\nAssistant: I cannot book, but you find it on the railway's page.",
     "Lea wanted to go to Graz and back on Sunday; the assistant named the trains at 9:12 and 17:03 and said that it "
     "cannot book."),
    ("User: Wie kocht man Reis?\nAssistant: Eine Tasse Reis, zwei Tassen Wasser, zwölf Minuten.\n"
     "User: Schreib mir ein Gedicht über Reis.\nAssistant: Weiß und warm im Topf, so liegt er da.",
     "Der Nutzer fragte, wie man Reis kocht (zwei Tassen Wasser auf eine Tasse Reis, zwölf Minuten), und bekam ein "
     "Gedicht über Reis."),
    ("User: My laptop does not start.\nAssistant: Does a lamp light up when you press the button?\n"
     "User: No.\nAssistant: Then try another charger.",
     "The user's laptop does not start and no lamp lights up; the assistant advised another charger."),
)  # fmt: skip
_SHORTER = (
    "You read the minutes of a conversation, one line for each part. Write in two or three short sentences what "
    "matters of them, in their language. Answer with JSON."
)
_SHORTER_EXAMPLES: tuple[tuple[str, str], ...] = (
    ("Lea wanted to go to Graz on Sunday; the assistant named the trains at 9:12 and 17:03.\n"
     "The user's laptop does not start; the assistant advised another charger.\n"
     "The user asked for a poem about rice and liked it.",
     "Lea goes to Graz on Sunday by the trains at 9:12 and 17:03. Her laptop does not start; a charger may help."),
)  # fmt: skip
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_LINE = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+(.+)$", re.MULTILINE)


def fact_prompt(message: str) -> list[Message]:
    """The prompt for the facts in one message of a member."""
    examples = [(text, json.dumps({"facts": facts}, ensure_ascii=False)) for text, facts in _FACT_EXAMPLES]
    return _dialog(_FACTS, [(f"Message: {text}", answer) for text, answer in examples], f"Message: {_read(message)}")


def summary_prompt(pairs: Sequence[RememberedPair]) -> list[Message]:
    """The prompt for what a part of a dialog was about."""
    lines = []
    for pair in pairs:
        lines += [f"{_read(pair.author or 'User')}: {_read(pair.user)}", f"Assistant: {_read(pair.reply)}"]
    return _dialog(_SUMMARY, _answered(_SUMMARY_EXAMPLES), "\n".join(lines))


def shorter_prompt(lines: Sequence[str]) -> list[Message]:
    """The prompt that puts the oldest lines of a summary together."""
    return _dialog(_SHORTER, _answered(_SHORTER_EXAMPLES), "\n".join(lines))


def facts_format() -> dict[str, object]:
    """`response_format` for facts."""
    fact = {"type": "string", "maxLength": MAX_FACT}
    return json_format("facts", {"facts": {"type": "array", "items": fact, "maxItems": MAX_FACTS_OF_MESSAGE}})


def summary_format() -> dict[str, object]:
    """`response_format` for a line of a summary."""
    return json_format("summary", {"summary": {"type": "string", "maxLength": MAX_LINE}})


def read_facts(answer: str) -> tuple[str, ...]:
    """The facts in an answer: of its JSON, else of its list; none in anything else."""
    value = _json(answer)
    found = value.get("facts") if isinstance(value, dict) else value
    if isinstance(found, list):
        texts = [each for each in found if isinstance(each, str)]
    else:
        texts = [] if value is not None else [line[1] for line in _LINE.finditer(answer[:MAX_SUMMARY])]
    return tuple(texts[:MAX_FACTS_OF_MESSAGE])


def read_summary(answer: str) -> str:
    """The text of a summary in an answer: of its JSON, else the answer itself."""
    value = _json(answer)
    if isinstance(value, dict):
        found = value.get("summary")
        return found if isinstance(found, str) else ""
    return "" if value is not None or "{" in answer else answer


def _dialog(system: str, examples: Sequence[tuple[str, str]], text: str) -> list[Message]:
    messages = [Message(role="system", content=system)]
    for said, answer in examples:
        messages += [Message(role="user", content=said), Message(role="assistant", content=answer)]
    return [*messages, Message(role="user", content=text)]


def _answered(examples: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(text, json.dumps({"summary": summary}, ensure_ascii=False)) for text, summary in examples]


def _read(text: str) -> str:
    """A text on one line, its middle left out if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_READ else f"{line[: _MAX_READ // 2]} … {line[-_MAX_READ // 2 :]}"


def _json(answer: str) -> object:
    """The JSON in an answer, whatever stands around it; None if there is none."""
    found = _OBJECT.search(answer[:20_000])
    for text in (answer.strip(), found[0] if found else ""):
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError):
            continue
        return value
    return None
