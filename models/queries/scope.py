"""Marks the queries that may read or write rows of more than one tenant key.

Every other query must take `key: DialogKey`. tests/models/test_tenant_safety.py checks all query functions for this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MARKER = "__cross_tenant__"  # attribute of a marked function, holding the reason


def cross_tenant(reason: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a query that serves the operator, a whole guild, or one person in several guilds; `reason` says which."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        setattr(function, MARKER, reason)
        return function

    return mark
