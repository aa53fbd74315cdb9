"""What a reply must match, as text, and its translation into a grammar of llguidance.

Knows schemas, patterns and choices; knows no tokens.
"""

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
class GrammarSpec:
    """What a reply must match: a schema in JSON, a pattern, or a JSON list of texts."""

    kind: Kind
    text: str

    @classmethod
    def of_schema(cls, schema: Mapping[str, object]) -> "GrammarSpec":
        """JSON that a schema accepts. {"type": "object"} is any JSON object."""
        return cls("json_schema", json.dumps(schema))


def llguidance_grammar(spec: GrammarSpec) -> str:
    """The grammar that llguidance compiles. Raises ValueError."""
    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    if spec.kind == "choice":
        return LLMatcher.grammar_from_regex("|".join(f"({re.escape(text)})" for text in json.loads(spec.text)))
    return LLMatcher.grammar_from_json_schema(spec.text, overrides=_OPTIONS)  # type: ignore[arg-type]
