"""The names of metrics and labels in a PromQL expression. Not a parser: promtool is one, where it is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "inf", "nan", "Inf"})


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    rest = _RANGE.sub(" ", _MATCHERS.sub(" ", _GROUPING.sub(" ", _STRING.sub('""', expression))))
    found = set()
    for match in _NAME.finditer(rest):
        before = rest[match.start() - 1 : match.start()]
        is_call = rest[match.end() :].lstrip().startswith("(")
        if match[0] not in _WORDS and not is_call and not before.isdigit() and before != "$":
            found.add(match[0])
    return found


def label_values(expression: str) -> Iterator[tuple[str, str, str]]:
    """(metric, label, value) of each matcher of one metric: alternatives of a regular expression one by one."""
    for match in re.finditer(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{([^}]*)\}", expression):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', match[2]):
            for each in value.split("|") if "~" in operator else [value]:
                yield match[1], label, each
