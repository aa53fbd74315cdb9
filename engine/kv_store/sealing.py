"""Authenticated encryption of the files: AES-256-GCM under a key of the files' own.

The key is derived from the operator's and a random salt in the files. Nonces are random, and a key is used for far
fewer than 2³² messages. Everything is authenticated before it is used; `context` says what a message is and where it
belongs, so that no message passes for another one.
"""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SALT_BYTES: Final = 32
OVERHEAD: Final = 28  # bytes that sealing adds
_NONCE_BYTES: Final = 12
_LABEL: Final = b"guildllama engine kv store 1"


class Sealer:
    """Seals and opens messages of one set of files. Any thread may call it."""

    def __init__(self, key: bytes, salt: bytes) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=salt, info=_LABEL).derive(key)
        self._cipher = AESGCM(derived)

    def seal(self, message: bytes, context: bytes) -> bytes:
        """OVERHEAD bytes longer than the message."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, message, context)

    def open(self, sealed: bytes, context: bytes) -> bytes | None:
        """The message, or None if it was not sealed with this key for this context, or has changed since."""
        if len(sealed) < OVERHEAD:
            return None
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
        except InvalidTag:
            return None
