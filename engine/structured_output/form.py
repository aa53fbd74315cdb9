"""What a reply must look like, and its translation into a grammar of llguidance."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from llguidance import LLMatcher

Kind = Literal["json_schema", "regex", "choice"]

# Between the tokens of JSON: nothing, a space, or a new line with its indentation. A model that may write any number
# of line breaks sooner or later writes nothing else.
_WHITESPACE: Final = r"( |\n[ \t]{0,64})?"
_OPTIONS: Final[dict[str, Any]] = {"whitespace_pattern": _WHITESPACE, "lenient": False}


@dataclass(frozen=True, slots=True)
class Form:
    """The form of a reply, as text: a schema in JSON, a pattern, or a JSON list of texts."""

    kind: Kind
    text: str

    @classmethod
    def of_schema(cls, schema: Mapping[str, object]) -> "Form":
        """JSON that a schema accepts. {"type": "object"} is any JSON object."""
        return cls("json_schema", json.dumps(schema))


def grammar(form: Form) -> str:
    """The grammar that llguidance compiles. Raises ValueError."""
    if form.kind == "regex":
        return LLMatcher.grammar_from_regex(form.text)
    if form.kind == "choice":
        return LLMatcher.grammar_from_regex("|".join(f"({re.escape(text)})" for text in json.loads(form.text)))
    return LLMatcher.grammar_from_json_schema(form.text, overrides=_OPTIONS)  # type: ignore[arg-type]
