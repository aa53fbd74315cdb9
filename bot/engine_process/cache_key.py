"""The key that seals the engine's files of cached prompts: made from the database's key, and another one than that.

The engine learns it through its environment, since every user of the machine can see command lines.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bot.errors import ConfigError
from bot.settings import Settings
from bot.storage import encryption_keys

KEY_VARIABLE: Final = "ENGINE_KV_DIR_KEY"
_LABEL: Final = b"guildllama kv dir"


def cache_key_environment(settings: Settings) -> dict[str, str]:
    """What the engine's environment must contain for `KV_DIR`; nothing if that is not set.

    With another first key among ENCRYPTION_KEYS the engine starts with an empty cache. Raises ConfigError.
    """
    if settings.kv_dir is None:
        return {}
    try:
        secret = base64.urlsafe_b64decode(encryption_keys(settings)[0])
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != 32:
        raise ConfigError(
            "GUILDLLAMA_ENCRYPTION_KEYS", "the first key is not a Fernet key", "It has 32 bytes in url-safe base64."
        )
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_LABEL).derive(secret)
    return {KEY_VARIABLE: base64.urlsafe_b64encode(derived).decode()}
