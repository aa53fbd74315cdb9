"""The filters that a template may use: jinja2's own where they are small, and ours where texts or sizes matter.

Left out are filters that no prompt needs and that could compute without bound (`urlize`, `wordwrap`, `xmlattr`), and
`random`, which differs from call to call. Knows no templates.
"""

import html
import json
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from jinja2.filters import FILTERS

from engine.chat.limits import TemplateLimitError, budget, check_number, check_width
from engine.chat.provenance import changed
from engine.chat.text_methods import METHODS, as_text, join, measure, percent, replace

_OF_JINJA = (
    *("abs", "attr", "count", "length", "d", "default", "dictsort", "first", "float", "groupby", "int", "items"),
    *("last", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique"),
    "wordcount",
)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it, which escapes nothing for HTML."""
    check_width(indent or 0, len("".join(separators or ())))
    budget().chars((1 + (indent or 0)) * measure(value) if budget().weigh(value) else 0)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _reverse(value: Any) -> object:
    if isinstance(value, str):
        return value[::-1]
    return list(value)[::-1]


def _indent(text: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Jinja's: each line but the first one, and no empty one unless `blank`."""
    if isinstance(width, int):
        check_width(width)
        width = " " * width
    source = as_text(text)
    lines = METHODS["splitlines"](source + "\n" if type(source) is str else join([source, "\n"]))
    indented = [
        join([width if (n or first) and (line or blank or not n) else "", line]) for n, line in enumerate(lines)
    ]
    return join(indented, "\n")


def _round(value: Any, precision: int = 0, method: str = "common") -> float:
    check_number(value)
    check_width(precision)
    return FILTERS["round"](value, precision, method)  # type: ignore[no-any-return]


def _sum(value: Iterable[Any], attribute: None = None, start: Any = 0) -> Any:
    if attribute is not None:
        raise TemplateLimitError("it sums attributes")
    total = start
    for entry in value:
        if not isinstance(entry, int | float) or not isinstance(total, int | float):
            raise TypeError("only numbers are summed")
        budget().step()
        total += entry
        check_number(total)
    return total


def _capitalized(text: object) -> str:
    value = as_text(text)
    return changed(value, value.capitalize())


def _method(name: str) -> Callable[..., Any]:
    def apply(value: object, *arguments: Any) -> Any:
        return METHODS[name](as_text(value), *arguments)

    return apply


def _format(value: object, *args: object, **kwargs: object) -> str:
    return percent(as_text(value), kwargs or args)


def _replace(value: object, old: object, new: object, count: int | None = None) -> str:
    return replace(as_text(value), as_text(old), as_text(new), -1 if count is None else count)


def _title(value: object) -> str:
    text = as_text(value)
    return changed(text, FILTERS["title"](text))


def _escape(value: object) -> str:
    return html.escape(as_text(value), quote=True).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


_OURS: Mapping[str, Callable[..., Any]] = {
    "tojson": _tojson,
    "reverse": _reverse,
    "indent": _indent,
    "round": _round,
    "sum": _sum,
    "capitalize": _capitalized,
    "trim": _method("strip"),
    "upper": _method("upper"),
    "lower": _method("lower"),
    "center": lambda value, width=80: _method("center")(value, width),
    "title": _title,
    "format": _format,
    "replace": _replace,
    "string": as_text,
    "safe": as_text,
    "escape": _escape,
    "e": _escape,
}


def filters(getattr_of: Callable[[Any, str], Any]) -> dict[str, Callable[..., Any]]:
    """All filters by name; `getattr_of` is how the sandbox reads an attribute or an item of a value."""

    def joined(value: Iterable[object], d: object = "", attribute: str | None = None) -> str:
        entries = value if attribute is None else (_deep(getattr_of, entry, attribute) for entry in value)
        return join(entries, as_text(d))

    table = {name: FILTERS[name] for name in _OF_JINJA} | dict(_OURS) | {"join": joined}
    return {name: _charged(function) for name, function in table.items()}


def _deep(getattr_of: Callable[[Any, str], Any], value: object, path: object) -> object:
    for name in str(path).split("."):
        value = getattr_of(value, name)
    return value


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def charged(*args: Any, **kwargs: Any) -> Any:
        budget().step(4)
        result = function(*args, **kwargs)
        budget().weigh(result)
        check_number(result)
        return result

    return charged
