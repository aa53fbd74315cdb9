"""The methods and operators that a template may use on texts. Their results keep the writers of the characters.

Each behaves as the method of `str`, within the budget of the rendering. A result is plain text if its characters cannot
be traced to the original's. Knows no templates.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from string import Formatter
from typing import Any

from engine.chat.limits import TemplateLimitError, budget, check_number, check_width
from engine.chat.provenance import SourcedText, changed, concat

_FIELD_NAME = re.compile(r"\d{0,3}|[A-Za-z_]\w*")
_PERCENT = re.compile(r"%(?:\((?P<name>[^()]*)\))?(?P<spec>[-+ #0-9.]*)(?P<kind>[diouxXeEfFgGcrsa%])")


def as_text(value: object) -> str:
    """What `str` returns for a value that a template may write: a text, a number, or JSON-like containers of them."""
    if isinstance(value, str):
        return value if type(value) in (str, SourcedText) else str.__str__(value)
    if isinstance(value, list | tuple | dict):
        budget().weigh(value)
        budget().chars(measure(value))
    elif isinstance(value, int):
        check_number(value)
    return str(value)


def join(parts: Iterable[object], separator: str = "") -> str:
    """The texts of the parts, with the separator between them."""
    texts: list[str] = []
    for value in parts:
        text = as_text(value)
        budget().chars(len(text) + len(separator))
        if texts and separator:
            texts.append(separator)
        texts.append(text)
    return concat(texts)


def repeat(text: str, count: int) -> str:
    """`text * count`."""
    budget().chars(len(text) * max(0, count))
    return concat([text] * count)


def percent(text: str, values: object) -> str:
    """`text % values`."""
    positional = iter(values if isinstance(values, tuple) else (values,))
    parts: list[str] = []
    at = 0
    for match in _PERCENT.finditer(text):
        literal = text[at : match.start()]
        if "%" in literal:
            raise TemplateLimitError("it formats a text in an unusual way")
        parts.append(literal)
        at = match.end()
        name, spec, kind = match["name"], match["spec"], match["kind"]
        check_width(spec)
        if kind == "%":
            parts.append(text[match.end() - 1 : match.end()])
            continue
        if name is not None:
            if not isinstance(values, Mapping):
                raise TypeError("format requires a mapping")
            value = values[name]
        else:
            try:
                value = next(positional)
            except StopIteration:
                raise TypeError("not enough arguments for format string") from None
        if kind in "rsa":
            plain = as_text(value)
            parts.append(plain if kind == "s" and not spec else f"%{spec}{kind}" % plain)
        else:
            check_number(value)
            parts.append(f"%{spec}{kind}" % value)
    if "%" in text[at:]:
        raise TemplateLimitError("it formats a text in an unusual way")
    return join([*parts, text[at:]])


def measure(value: object) -> int:
    """About the length of a container's text; its weight is bounded already."""
    if isinstance(value, str):
        return len(value) + 4
    if isinstance(value, dict):
        return 2 + sum(measure(key) + measure(entry) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return 2 + sum(map(measure, value))
    if value is None or isinstance(value, bool | int | float):
        return 24
    raise TemplateLimitError(f"it writes a {type(value).__name__} as text")


def _strip(text: str, chars: str | None = None) -> str:
    start = len(text) - len(str.lstrip(text, chars))
    return text[start : max(start, len(str.rstrip(text, chars)))]


def _lstrip(text: str, chars: str | None = None) -> str:
    return text[len(text) - len(str.lstrip(text, chars)) :]


def _rstrip(text: str, chars: str | None = None) -> str:
    return text[: len(str.rstrip(text, chars))]


def _located(text: str, pieces: Iterable[str], *, step: int | None) -> list[str]:
    """The pieces, which follow each other in the text: `step` characters apart, or somewhere after each other."""
    found, at = [], 0
    for piece in pieces:
        if step is None:
            at = str.find(text, piece, at)
        found.append(text[at : at + len(piece)])
        at += len(piece) + (step or 0)
    budget().step(len(found))
    return found


def _split(text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    return _located(text, str.split(text, sep, maxsplit), step=None if sep is None else len(sep))


def _rsplit(text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    return _located(text, str.rsplit(text, sep, maxsplit), step=None if sep is None else len(sep))


def _splitlines(text: str, keepends: bool = False) -> list[str]:
    lines = _located(text, str.splitlines(text, True), step=0)
    return lines if keepends else [line[: len(str.splitlines(line)[0])] for line in lines]


def _partition(text: str, sep: str) -> tuple[str, str, str]:
    head, middle, _ = str.partition(text, sep)
    first, second = len(head), len(head) + len(middle)
    return text[:first], text[first:second], text[second:]


def _rpartition(text: str, sep: str) -> tuple[str, str, str]:
    head, middle, _ = str.rpartition(text, sep)
    first, second = len(head), len(head) + len(middle)
    return text[:first], text[first:second], text[second:]


def _removeprefix(text: str, prefix: str) -> str:
    return text[len(prefix) :] if prefix and text.startswith(prefix) else text


def _removesuffix(text: str, suffix: str) -> str:
    return text[: len(text) - len(suffix)] if suffix and text.endswith(suffix) else text


def replace(text: str, old: str, new: str, count: int = -1) -> str:
    """`text.replace(old, new, count)`."""
    hits = len(text) + 1 if not old else str.count(text, old)
    budget().chars(len(text) + hits * len(new))
    if not old:
        return str.replace(text, old, new, count)
    pieces = _split(text, old, count) if count != 0 else [text]
    return join(pieces, new)


def _join(text: str, parts: Iterable[str]) -> str:
    listed = list(parts)
    if not all(isinstance(entry, str) for entry in listed):
        raise TypeError("sequence item: expected str instance")
    return join(listed, text)


def _format(text: str, *args: object, **values: object) -> str:
    """Fields by place or name. Attributes of a value are not reachable from here."""
    parts: list[object] = []
    number = 0
    source = text if isinstance(text, SourcedText) else None
    for literal, name, spec, conversion in Formatter().parse(str.__str__(text)):
        if literal:
            parts.append(changed(source, literal) if source is not None else literal)
        if name is None:
            continue
        if not _FIELD_NAME.fullmatch(name) or "{" in (spec or ""):
            raise TemplateLimitError("it formats a text in an unusual way")
        if not name:
            name, number = str(number), number + 1
        value: Any = args[int(name)] if name.isdecimal() else values[name]
        if conversion or spec:
            check_width(spec)
            check_number(value)
            plain = repr(as_text(value)) if conversion in ("r", "a") else value
            parts.append(format(str.__str__(as_text(value)) if isinstance(value, str) else plain, spec or ""))
        else:
            parts.append(value)
    return join(parts)


def _padded(method: Callable[..., str]) -> Callable[..., str]:
    def pad(text: str, width: int, *fill: str) -> str:
        if width > len(text):
            check_width(width)
        return text if width <= len(text) else method(text, width, *fill)

    return pad


def _expandtabs(text: str, tabsize: int = 8) -> str:
    check_width(tabsize)
    budget().chars(len(text) + str.count(text, "\t") * max(0, tabsize))
    return str.expandtabs(text, tabsize)


def _casing(method: Callable[[str], str]) -> Callable[[str], str]:
    return lambda text: changed(text, method(text))


_QUESTIONS = (
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "isalpha", "isalnum", "isdigit"),
    *("isdecimal", "isnumeric", "isspace", "islower", "isupper", "istitle", "isascii", "isidentifier", "isprintable"),
)
METHODS: Mapping[str, Callable[..., Any]] = {
    **{name: getattr(str, name) for name in _QUESTIONS},
    **{name: _casing(getattr(str, name)) for name in ("upper", "lower", "title", "capitalize", "swapcase", "casefold")},
    **{name: _padded(getattr(str, name)) for name in ("ljust", "rjust", "center", "zfill")},
    "strip": _strip,
    "lstrip": _lstrip,
    "rstrip": _rstrip,
    "split": _split,
    "rsplit": _rsplit,
    "splitlines": _splitlines,
    "partition": _partition,
    "rpartition": _rpartition,
    "removeprefix": _removeprefix,
    "removesuffix": _removesuffix,
    "replace": replace,
    "join": _join,
    "format": _format,
    "expandtabs": _expandtabs,
}
"""By name; the text is the first argument."""
