"""What a guild's settings would be with a file: its channels and roles are looked for in the guild."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from bot.guilds.settings.limits import OF_ROLES, shown_name
from bot.guilds.settings.settings_file.schema import FIELDS, Channel, Listed, Role, from_file
from models.types import GuildSettings, RolePolicy


@dataclass(frozen=True, slots=True)
class Imported:
    """What a guild's settings would be with a file, and what of the file the guild does not have."""

    settings: GuildSettings
    skipped: tuple[str, ...]
    """Names of the channels and roles that are left out."""
    kept: tuple[str, ...]
    """Names of what stays as it was: lists of which nothing exists here, and a model that is not offered."""


def imported(
    file: Listed,
    old: GuildSettings,
    *,
    channels: Callable[[int], bool],
    roles: Callable[[int], bool],
    models: Callable[[str], bool] = lambda name: False,
) -> Imported:
    """The settings with what stands in the file.

    `channels`, `roles`: whether the guild has one of this id. `models`: whether it may choose the one of this name.
    """
    given = file.model_fields_set
    changes = {field: from_file(key, getattr(file, key)) for key, field in FIELDS.items() if key in given}
    skipped: list[str] = []
    kept: list[str] = []

    def existing(key: str, listed: Iterable[Any], has: Callable[[int], bool]) -> list[Any] | None:
        """Those of a list that exist here; None if the list stays as it was."""
        if key not in given:
            return None
        every = list(listed)
        here = [each for each in every if has(int(each.id))]
        skipped.extend(_named(each) for each in every if not has(int(each.id)))
        if every and not here:
            kept.append(key)
            return None
        return here

    if (found := existing("channels", file.channels, channels)) is not None:
        changes["channels"] = frozenset(int(each.id) for each in found)
    if (found := existing("channel_scopes", file.channel_scopes, channels)) is not None:
        changes["channel_scopes"] = tuple(sorted({int(each.id): each.scope for each in found}.items()))
    if (found := existing("persona_locks", file.persona_locks, channels)) is not None:
        changes["locked_channels"] = frozenset(int(each.id) for each in found)
    if (found := existing("roles", file.roles, roles)) is not None:
        policies = {int(each.id): _policy(each) for each in found}
        said = (policies[role_id] for role_id in sorted(policies) if policies[role_id] != RolePolicy(role_id))
        changes["roles"] = tuple(said)
    if file.model is not None and file.model != old.model and not models(file.model):
        del changes["model"]
        kept.append("model")
    new = replace(old, **changes)
    if _opens_up(file.roles, new):
        kept.append("roles")
        new = replace(new, roles=old.roles)
    if new.own_personas == "roles" and not any(role.own_persona for role in new.roles):
        new = replace(new, own_personas=old.own_personas)
        kept.append("own_personas")
    return Imported(new, tuple(dict.fromkeys(skipped)), tuple(dict.fromkeys(kept)))


def _policy(role: Role) -> RolePolicy:
    numbers: dict[str, Any] = {name: getattr(role, shown_name(name)) for name in OF_ROLES}
    return RolePolicy(int(role.id), role.may_chat, own_persona=role.may_have_persona, **numbers)


def _opens_up(listed: Iterable[Role], new: GuildSettings) -> bool:
    """Whether the file lets only some roles chat, and none of them exists here."""
    return any(role.may_chat for role in listed) and not any(role.allowed for role in new.roles)


def _named(each: Channel | Role) -> str:
    """A channel or role that does not exist here, by its name in the file and its id."""
    kept = "".join(char for char in each.name if char.isprintable() and char not in "`<>@*_~|[]()\\")
    return f"{kept[:40]} ({each.id})" if kept.strip() else each.id
