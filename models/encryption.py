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
            self._newest = Fernet(keys[0]) if keys else None
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

    def reseal(self, stored: str, *, plain: bool = False) -> str | None:
        """The text as it should be stored from now on, or None if it already is: rotation touches only what is old."""
        if plain or self._newest is None:
            fresh = TextCodec().seal(self.open(stored))
            return None if fresh == stored else fresh
        if stored.startswith(_SEALED):
            try:
                self._newest.decrypt(stored[len(_SEALED) :].encode("ascii"))
            except InvalidToken:
                pass
            else:
                return None
        return self.seal(self.open(stored))
