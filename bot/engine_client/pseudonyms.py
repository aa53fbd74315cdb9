"""Opaque names for members and guilds, as the engine sees them.

An engine needs stable names to schedule members fairly and to keep one guild's cached prompts apart from another's. It
must not learn who they are: each name is an HMAC of the ids, keyed by a secret of this installation, so that ids cannot
be tried out without it. Two applications have different names for the same guild and the same member.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from bot.settings import Settings
from models.application import TERMINAL
from models.types import DIRECT_MESSAGES, DialogKey


class Pseudonyms:
    """Names of 32 hexadecimal digits, the same for as long as the Discord token is the same."""

    def __init__(self, settings: Settings, application: Callable[[], int | None] = lambda: TERMINAL) -> None:
        """`application`: the id of the Discord application that is served, known once the bot has logged in."""
        self._application = application
        # The token is the one secret that every installation has; the terminal needs none and has one user.
        token = settings.discord_token
        secret = token.get_secret_value() if token is not None else settings.database_url
        self._key = hashlib.sha256(b"guildllama opaque ids\x00" + secret.encode()).digest()

    def user(self, key: DialogKey) -> str:
        """The name of a member of a guild. The same person has another name in another guild."""
        return self._name("member", key.guild_id, key.user_id)

    def cache_salt(self, key: DialogKey) -> str:
        """The scope in which cached prompts may be shared: a guild, or one person's direct messages."""
        if key.guild_id == DIRECT_MESSAGES:
            return self._name("direct", key.user_id)
        return self._name("guild", key.guild_id)

    def _name(self, kind: str, *ids: int) -> str:
        text = f"{kind}:{self._application()}:{':'.join(map(str, ids))}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]
