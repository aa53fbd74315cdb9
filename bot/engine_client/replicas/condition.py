"""How one server is, from what its requests and its health checks say. Pure bookkeeping on a clock that is passed in.

well:    it gets its tenants' requests.
away:    it could not be connected to, or says that it is not ready (503): while it loads, or drains before it stops.
         It gets nothing new until a health check succeeds.
resting: it answers, but what it sends is of no use: errors, nonsense, half a stream, or nothing for too long. Health
         checks do not see that, so it is left alone for a time that doubles with each further failure.
trial:   it is back from one of the two. One request at a time is sent there, until one has been answered in full.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

State = Literal["well", "away", "resting", "trial"]

MAX_FAILURES = 2
"""Useless answers in a row after which a server rests: one alone may be the prompt's fault."""
FIRST_REST, LONGEST_REST = 5.0, 300.0  # seconds
MAX_MISSED_CHECKS = 2
"""A busy server may miss one health check."""


class Condition:
    """The state of one server. Each method returns nothing; `on_change` is told of a new state and its reason."""

    def __init__(
        self,
        on_change: Callable[[State, str], None] = lambda state, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._state: State = "well"
        self._failures = self._missed_checks = 0
        self._rest = FIRST_REST
        self._rests_until = 0.0
        self._on_trial = False

    @property
    def state(self) -> State:
        """How the server is now."""
        if self._state == "resting" and self._clock() >= self._rests_until:
            self._enter("trial", "it has rested")
        return self._state

    @property
    def takes_requests(self) -> bool:
        """Whether a request may be sent there before others were asked."""
        state = self.state
        return state == "well" or (state == "trial" and not self._on_trial)

    def begin(self) -> None:
        """A request is sent."""
        if self.state == "trial":
            self._on_trial = True

    def left(self) -> None:
        """A request ended that says nothing of the server: the client left, or the prompt was at fault."""
        self._on_trial = False

    def answered(self) -> None:
        """A request was answered in full."""
        self._failures, self._rest, self._on_trial = 0, FIRST_REST, False
        self._missed_checks = 0
        if self._state != "well":
            self._enter("well", "it answers")

    def useless(self, reason: str) -> None:
        """A request got an error, nonsense, half an answer, or none for too long."""
        self._failures += 1
        state, self._on_trial = self.state, False
        if state == "trial" or (state == "well" and self._failures >= MAX_FAILURES):
            self._rests_until = self._clock() + self._rest
            self._rest = min(LONGEST_REST, self._rest * 2)
            self._enter("resting", reason)

    def not_there(self, reason: str) -> None:
        """It refused the connection, or says that it is not ready. What it was asked has not begun."""
        self._on_trial = False
        if self.state != "away":
            self._enter("away", reason)

    def check_missed(self) -> None:
        """A health check got no answer."""
        self._missed_checks += 1
        if self._missed_checks >= MAX_MISSED_CHECKS:
            self.not_there("health checks get no answer")

    def check_succeeded(self) -> None:
        """A health check says that it is ready."""
        self._missed_checks = 0
        if self._state == "away":
            self._on_trial = False
            self._enter("trial", "it is ready")

    def _enter(self, state: State, reason: str) -> None:
        self._state = state
        self._on_change(state, reason)
