"""Encodes message text for storage: plain, or encrypted ("sealed") with Fernet. Knows keys; knows no tables.

Stored text that starts with MARK was written by the codec. A member's own text that starts with MARK is escaped, so no
message can pass for an encrypted one. Plain and encrypted rows may be mixed: each row shows which it is.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from models.errors import WrongEncryptionKey

MARK = "\x02"
_PLAIN = MARK + "p:"
_SEALED = MARK + "f:"


class TextCodec:
    """Encrypts with the first key and decrypts with any; without keys, stores plain text.

    Raises WrongEncryptionKey for a key that is not a Fernet key.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        try:
            self._newest = Fernet(keys[0]) if keys else None
            self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        except (ValueError, TypeError):
            raise WrongEncryptionKey("an encryption key is not a Fernet key (32 bytes, url-safe base64)") from None

    def seal(self, text: str) -> str:
        """Encode text for storage."""
        if self._fernet is not None:
            return _SEALED + self._fernet.encrypt(text.encode()).decode("ascii")
        return _PLAIN + text if text.startswith(MARK) else text

    def open(self, stored: str) -> str:
        """Decode stored text. Raises WrongEncryptionKey if it is encrypted and no configured key fits."""
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
        """Return `stored` encoded with the newest key (or as plain text), or None if it already is."""
        if plain or self._newest is None:
            plain_text = TextCodec().seal(self.open(stored))
            return None if plain_text == stored else plain_text
        if stored.startswith(_SEALED):
            try:
                self._newest.decrypt(stored[len(_SEALED) :].encode("ascii"))
            except InvalidToken:
                pass
            else:
                return None
        return self.seal(self.open(stored))
