"""What tells a tenant's query from an operator's.

A query either takes `key: DialogKey`, or is marked `@across_tenants("why")`, which says why it may look beyond one key.
tests/models/test_tenant_safety.py walks through all query functions and accepts nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MARKER = "__across_tenants__"


def across_tenants(why: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Marks a query that serves the operator, a guild's admin or a person's own request over several keys."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        setattr(function, MARKER, why)
        return function

    return mark
