"""Opaque names for tenants, as an engine sees them.

An engine schedules fairly between members and keeps one guild's cached prompts apart from another's, for which it
needs names that stay the same. It must not learn who they are: each name is an HMAC of the snowflakes under a key that
is derived from this installation's secret, so that nobody without the secret can try out snowflakes.
"""

from __future__ import annotations

import hashlib
import hmac

from bot.settings import Settings
from models.types import DIRECT_MESSAGES, DialogKey


class Pseudonyms:
    def __init__(self, settings: Settings) -> None:
        # The token is the one secret that every installation has; the terminal needs none and has one user.
        token = settings.discord_token
        secret = token.get_secret_value() if token is not None else settings.database_url
        self._key = hashlib.sha256(b"guildllama opaque ids\x00" + secret.encode()).digest()

    def user(self, key: DialogKey) -> str:
        """A member of a guild. The same person in another guild has another name."""
        return self._name("member", key.guild_id, key.user_id)

    def cache_salt(self, key: DialogKey) -> str:
        """What may share cached prompts: a guild, or one person's direct messages."""
        if key.guild_id == DIRECT_MESSAGES:
            return self._name("direct", key.user_id)
        return self._name("guild", key.guild_id)

    def _name(self, kind: str, *ids: int) -> str:
        text = f"{kind}:{':'.join(map(str, ids))}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]
