"""Terms of llguidance's Lark grammars, written safely: nothing that a client sent can become syntax.

Knows how a literal, a control token and a JSON value are written; knows neither tools nor llguidance itself.
"""

import json
from collections.abc import Mapping
from typing import Final

# Between the tokens of JSON: nothing, a space, or a new line with its indentation. A model that may write any number
# of line breaks sooner or later writes nothing else.
JSON_SPACE: Final = r" |\n[ \t]{0,64}"


def literal(text: str) -> str:
    """Exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def control_token(token_id: int) -> str:
    """Exactly this token, which has no text."""
    return f"<[{token_id}]>"


def json_schema(schema: Mapping[str, object], *, lenient: bool = False) -> str:
    """The schema as text, with our options for llguidance over its own.

    `lenient`: unknown keywords and formats are ignored.
    """
    own = schema.get("x-guidance")
    options = {"whitespace_pattern": f"({JSON_SPACE})?", "lenient": lenient}
    return json.dumps({**schema, "x-guidance": {**own, **options} if isinstance(own, dict) else options})


def json_value(schema: Mapping[str, object], *, lenient: bool = False) -> str:
    """JSON that the schema accepts; references in it are relative to itself."""
    return f"%json {json_schema(schema, lenient=lenient)}"


def pattern(regex: str) -> str:
    """A regular expression."""
    return "/" + regex.replace("/", r"\/") + "/"
