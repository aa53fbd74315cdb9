"""What a reply must match, as text, and its translation into a grammar of llguidance.

Knows schemas, patterns, choices and whole grammars; knows no tokens.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llguidance import LLMatcher

from engine.structured_output.lark import json_schema

Kind = Literal["json_schema", "regex", "choice", "lark"]


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """What a reply must match: a schema in JSON, a pattern, a JSON list of texts, or a grammar of our own making."""

    kind: Kind
    text: str

    @classmethod
    def of_schema(cls, schema: Mapping[str, object]) -> "GrammarSpec":
        """JSON that a schema accepts. {"type": "object"} is any JSON object."""
        return cls("json_schema", json_schema(schema))


def llguidance_grammar(spec: GrammarSpec) -> str:
    """The grammar that llguidance compiles. Raises ValueError."""
    if spec.kind == "regex":
        return LLMatcher.grammar_from_regex(spec.text)
    if spec.kind == "choice":
        return LLMatcher.grammar_from_regex("|".join(f"({re.escape(text)})" for text in json.loads(spec.text)))
    if spec.kind == "lark":
        return LLMatcher.grammar_from_lark(spec.text)
    return LLMatcher.grammar_from_json_schema(spec.text)
