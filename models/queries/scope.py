"""Marks the queries that may read or write rows of more than one tenant key, or of more than one application.

Every other query must take `key: DialogKey`. tests/models/test_tenant_safety.py checks all query functions for this.
All serve one application but those marked `cross_application`; models/statement_guard.py refuses what forgets it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from models.statement_guard import crossing

P = ParamSpec("P")
R = TypeVar("R")

MARKER = "__cross_tenant__"  # attribute of a marked function, holding the reason
APPLICATIONS_MARKER = "__cross_application__"


def cross_tenant(reason: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a query that serves the operator, a whole guild, or one person in several guilds; `reason` says which."""

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        setattr(function, MARKER, reason)
        return function

    return mark


def cross_application(reason: str) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
    """Mark a query of the operator that goes over all applications, and so over all tenants; `reason` says why."""

    def mark(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        @wraps(function)
        async def over_all(*args: P.args, **kwargs: P.kwargs) -> R:
            before = crossing.get()
            crossing.set(True)
            try:
                return await function(*args, **kwargs)
            finally:
                crossing.set(before)

        setattr(over_all, MARKER, reason)
        setattr(over_all, APPLICATIONS_MARKER, reason)
        return over_all

    return mark
