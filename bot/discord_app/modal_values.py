"""What a member filled into a modal: the values of its fields by their custom ids. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def submitted_values(data: object) -> dict[str, tuple[str, ...]]:
    """The text of each field, or what was chosen in it, in whichever layout Discord sends them."""
    return dict(_fields(data))


def _fields(node: object) -> Iterator[tuple[str, tuple[str, ...]]]:
    if isinstance(node, Mapping):
        custom_id, value, values = node.get("custom_id"), node.get("value"), node.get("values")
        if isinstance(custom_id, str) and isinstance(value, str):
            yield custom_id, (value,)
        elif isinstance(custom_id, str) and isinstance(values, list):
            yield custom_id, tuple(each for each in values if isinstance(each, str))
        for key in ("components", "component"):
            yield from _fields(node.get(key))
    elif isinstance(node, list):
        for child in node:
            yield from _fields(child)
