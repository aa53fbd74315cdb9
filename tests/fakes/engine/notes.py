"""Answers of a model that takes notes as the bot asks it to, and otherwise repeats what was said."""

from __future__ import annotations

import json

from tests.fakes.engine.script import Request, Script


def note_taker(request: Request) -> Script:
    """Notes as a good model writes them: a fact is each message that begins with "I", a summary names its messages."""
    if not is_notes(request):
        return Script(deltas=(f"You said: {request.last.rpartition(']')[2].strip()}",))
    said = request.last
    if said.startswith("Message: "):
        said = said.removeprefix("Message: ")
        found = [said.replace("I ", "The user ", 1)] if said.startswith("I ") else []
        return Script(deltas=(json.dumps({"facts": found}),))
    asked = [line.partition(": ")[2] for line in said.splitlines() if not line.startswith("Assistant: ")]
    return Script(deltas=(json.dumps({"summary": f"They spoke of {', '.join(asked)}."}),))


def is_notes(request: Request) -> bool:
    return "response_format" in request.body
