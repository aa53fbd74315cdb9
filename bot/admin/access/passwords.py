"""The operator's password: argon2id, by its hash alone. Blocking: a check takes a fifth of a second and 64 MiB."""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

MIN_CHARS, MAX_CHARS = 12, 256
_MEMORY_KIB, _ITERATIONS, _LANES, _LENGTH = 64 << 10, 3, 1, 32


def hash_password(password: str) -> str:
    """The hash to keep, in the usual form that begins with $argon2id$. It holds its salt and its cost."""
    kdf = Argon2id(salt=os.urandom(16), length=_LENGTH, iterations=_ITERATIONS, lanes=_LANES, memory_cost=_MEMORY_KIB)
    return kdf.derive_phc_encoded(password.encode())


def check_password(password: str, stored: str) -> bool:
    """Whether it is the password of this hash."""
    if len(password) > MAX_CHARS:
        return False
    try:
        Argon2id.verify_phc_encoded(password.encode("utf-8", "surrogatepass"), stored)
    except InvalidKey:
        return False
    return True
