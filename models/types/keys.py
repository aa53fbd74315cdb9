"""Whose dialog it is, in ids: the tenant key of every query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

DialogScope = Literal["member", "channel", "thread", "member-channel", "member-thread"]


EVERYBODY = 0  # user id of a dialog that all members of a channel share


DIRECT_MESSAGES = 0  # guild_id of direct messages; not NULL, which a unique index never treats as equal


LARGEST_ID = (1 << 63) - 1  # of a signed 64-bit column; snowflakes are below it


@dataclass(frozen=True, slots=True)
class DialogKey:
    """The tenant key: who acts, and in which dialog. Every query of a tenant's rows takes one. All ids are snowflakes.

    `channel_id` is 0 unless the guild chose dialogs per channel or thread. A `shared` dialog belongs to all members of
    its channel; persona of a member, settings, quota and usage are always those of `user_id`.
    """

    guild_id: int
    user_id: int
    channel_id: int = 0
    shared: bool = False

    @property
    def owner_id(self) -> int:
        """The user id that the dialog is stored under."""
        return EVERYBODY if self.shared else self.user_id

    @property
    def dialog(self) -> DialogKey:
        """The same key for all who act in this dialog: what a lock is held by."""
        return replace(self, user_id=EVERYBODY) if self.shared else self

    @property
    def private(self) -> DialogKey | None:
        """The key of the member's private dialog beside this shared one; None if this dialog is not shared."""
        return replace(self, shared=False) if self.shared else None


@dataclass(frozen=True, slots=True)
class StopRequester:
    """The person who wants to stop a running reply. Its asker may, and managers of its guild may."""

    user_id: int
    managed_guild_id: int | None = None

    def may_stop(self, key: DialogKey) -> bool:
        """Whether they may stop a reply to the member of `key`."""
        return self.user_id == key.user_id or self.managed_guild_id == key.guild_id != DIRECT_MESSAGES


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of the guilds that one gateway connection is told of: `index` of `count`, as Discord numbers them."""

    index: int = 0
    count: int = 1

    def has(self, guild_id: int) -> bool:
        """Whether Discord tells this shard of the guild. The formula is Discord's; direct messages are in shard 0."""
        return (guild_id >> 22) % self.count == self.index


WHOLE = Shard()
"""The only shard of a bot that is not split."""
