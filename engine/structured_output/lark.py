"""Terms of llguidance's Lark grammars, written safely: nothing that a client sent can become syntax.

Knows how a literal, a control token and a JSON value are written; knows neither tools nor llguidance itself.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

# Between the tokens of JSON: nothing, a space, or a new line with its indentation. A model that may write any number
# of line breaks sooner or later writes nothing else.
JSON_SPACE: Final = r" |\n[ \t]{0,64}"


def json_options(*, lenient: bool = False) -> dict[str, Any]:
    """How llguidance reads a schema. `lenient`: keywords and formats that it does not know are left out."""
    return {"whitespace_pattern": f"({JSON_SPACE})?", "lenient": lenient}


def literal(text: str) -> str:
    """Exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def control_token(token_id: int) -> str:
    """Exactly this token, which has no text."""
    return f"<[{token_id}]>"


def json_value(schema: Mapping[str, object], *, lenient: bool = False) -> str:
    """JSON that the schema accepts; references in it are relative to itself."""
    return "%json " + json.dumps({**schema, "x-guidance": json_options(lenient=lenient)})


def pattern(regex: str) -> str:
    """A regular expression."""
    return "/" + regex.replace("/", r"\/") + "/"
