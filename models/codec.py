"""How message text is kept at rest: as it is, or sealed with Fernet. Knows keys; knows no tables.

Stored text that starts with the mark was written by a codec; a member's own text that happens to start with the mark is
escaped, so no message can pass for a sealed one. Turning encryption on or off never makes old rows unreadable.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from models.errors import WrongEncryptionKey

MARK = "\x02"
_PLAIN = MARK + "p:"
_SEALED = MARK + "f:"


class TextCodec:
    """Seals with the first key, opens with any. Without keys it keeps text readable."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except (ValueError, TypeError):
            raise WrongEncryptionKey("an encryption key is not a Fernet key (32 bytes, url-safe base64)") from None

    @property
    def seals(self) -> bool:
        return self._fernet is not None

    def seal(self, text: str) -> str:
        if self._fernet is not None:
            return _SEALED + self._fernet.encrypt(text.encode()).decode("ascii")
        return _PLAIN + text if text.startswith(MARK) else text

    def open(self, stored: str) -> str:
        if stored.startswith(_PLAIN):
            return stored[len(_PLAIN) :]
        if not stored.startswith(_SEALED):
            return stored
        if self._fernet is None:
            raise WrongEncryptionKey("stored text is encrypted: set GUILDLLAMA_ENCRYPTION_KEYS")
        try:
            return self._fernet.decrypt(stored[len(_SEALED) :].encode("ascii")).decode()
        except InvalidToken:
            raise WrongEncryptionKey("stored text does not open with any of GUILDLLAMA_ENCRYPTION_KEYS") from None
