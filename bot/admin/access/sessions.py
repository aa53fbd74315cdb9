"""Who is signed in: sessions and one-time links, in memory alone, so that all of them end with the process.

Only hashes of what a browser holds are kept. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

IDLE_SECONDS = 30 * 60.0
"""How long a session lasts without a request."""
LONGEST_SECONDS = 8 * 3600.0
"""How long it lasts at most."""
MOST_SESSIONS = 32
"""Above this, the one that was used longest ago ends."""
LINK_SECONDS = 10 * 60.0
"""How long a one-time link can be used."""


@dataclass(slots=True)
class Session:
    """A browser that is signed in. `form_token`: what its forms send back, which no other page can know."""

    form_token: str = field(repr=False)
    began: float
    last_used: float


class Sessions:
    """The sessions of this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, Session] = OrderedDict()

    def begin(self) -> str:
        """Begin a session; return what the browser's cookie holds."""
        token, now = secrets.token_urlsafe(32), self._clock()
        self._found[_digest(token)] = Session(secrets.token_urlsafe(32), now, now)
        while len(self._found) > MOST_SESSIONS:
            self._found.popitem(last=False)
        return token

    def find(self, token: str) -> Session | None:
        """The session of a cookie, used now; None if it has ended or never was."""
        digest, now = _digest(token), self._clock()
        session = self._found.get(digest)
        if session is None:
            return None
        if now - session.last_used > IDLE_SECONDS or now - session.began > LONGEST_SECONDS:
            del self._found[digest]
            return None
        session.last_used = now
        self._found.move_to_end(digest)
        return session

    def end(self, token: str) -> None:
        """End a session."""
        self._found.pop(_digest(token), None)


class OneTimeLink:
    """The link that signs in once, without a password. There is one at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._digest = ""
        self._until = 0.0

    def make(self) -> str:
        """Make a link's secret; the one before it ends."""
        token = secrets.token_urlsafe(32)
        self._digest, self._until = _digest(token), self._clock() + LINK_SECONDS
        return token

    def holds(self, token: str) -> bool:
        """Whether it can be used now."""
        return self._clock() < self._until and hmac.compare_digest(_digest(token), self._digest)

    def use(self, token: str) -> bool:
        """Use it up. False if it had been used, has ended, or never was."""
        if not self.holds(token):
            return False
        self._digest, self._until = "", 0.0
        return True


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
