"""Refuses, by name, unsupported fields that would change the reply, unless their value switches them off.

Knows how names are compared; which names there are is in foreign_fields.py.
"""

import re
from collections.abc import Mapping

from engine.server.protocol.errors import RequestError
from engine.server.protocol.foreign_fields import FAMILIES, NEUTRAL, OTHER_NAMES, SUPPORTED, SWITCHES, Neutral

_NEW_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[-.]")


def refuse_unsupported(body: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raises RequestError for the first field that would change the reply. A field that is null is absent.

    `known`: the fields that are supported.
    """
    for given, value in body.items():
        if value is None or given in known or given in SUPPORTED:
            continue
        name = snake_case(given)
        if name in known:
            raise _refused(given, f"is not a field of this API: send '{name}'")
        if name in OTHER_NAMES:
            other = OTHER_NAMES[name]
            if value and value != (1 if other.endswith("_penalty") else -1):
                raise _refused(given, f"is not a field of this API: send '{other}'")
            continue
        neutral = NEUTRAL.get(name) or _family(name)
        if neutral is not None and not neutral(value) and not _is_switched_off(name, body):
            raise _refused(given, "is not supported by this engine")


def snake_case(name: str) -> str:
    """`topK`, `Top-K` and `top.k` are all `top_k`: spellings of one parameter."""
    return _NEW_WORD.sub("_", name).lower()


def _family(name: str) -> Neutral | None:
    return next((neutral for pattern, neutral in FAMILIES if pattern.fullmatch(name)), None)


def _is_switched_off(name: str, body: Mapping[str, object]) -> bool:
    for pattern, switches in SWITCHES:
        if pattern.fullmatch(name) and name not in switches:
            given = [body[switch] for switch in switches if switch in body]
            return bool(given) and not any(given)
    return False


def _refused(name: str, reason: str) -> RequestError:
    return RequestError(f"'{name}' {reason}.", param=name, code="unsupported_parameter")
