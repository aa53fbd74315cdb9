"""How much one rendering of a template may compute. Templates come with models, so they are untrusted.

Every operation of a template is charged here, and each one is small: texts, numbers and containers are bounded when
they are made. Only the processor time of the rendering thread counts, so that no template fails because the machine is
busy. Knows the values that templates handle, not templates.
"""

import re
import threading
import time
from collections.abc import Mapping, Sequence

MAX_STEPS = 400_000
MAX_CHARS = 1 << 23
CHARS_PER_CHAR = 64  # characters that a template may make for each one in the dialog
STEPS_PER_MESSAGE = 2_000
MAX_WEIGHT = 200_000  # elements of a container, with those of its elements
MAX_BITS = 256  # of a whole number
MAX_WIDTH = 1_000  # of a formatted field
MAX_SECONDS = 5.0
MAX_DEPTH = 64
_TICKS_PER_LOOK = 256
_NUMBER = re.compile(r"\d+")


class TemplateLimitError(Exception):
    """A template computes more than any chat template needs."""


class Budget:
    """The steps, characters, container elements and seconds that one rendering has left."""

    def __init__(self, *, num_messages: int, num_chars: int, seconds: float = MAX_SECONDS) -> None:
        """The size of the dialog, and the processor time."""
        self._steps = MAX_STEPS + STEPS_PER_MESSAGE * num_messages
        self._chars = MAX_CHARS + CHARS_PER_CHAR * num_chars
        self._weight = MAX_WEIGHT + 16 * num_messages
        self._deadline = time.thread_time() + seconds
        self._ticks = 0
        self._weights: dict[int, tuple[object, int]] = {}  # by id; the object is kept, so that its id stays its own

    def step(self, count: int = 1) -> None:
        """Charge operations. Raises TemplateLimitError, as all methods do."""
        self._steps -= count
        self._ticks += count
        if self._ticks >= _TICKS_PER_LOOK:
            self._ticks = 0
            if time.thread_time() > self._deadline:
                raise TemplateLimitError("it computes for too long")
        if self._steps < 0:
            raise TemplateLimitError("it takes too many steps")

    def chars(self, count: int) -> None:
        """Charge characters, before they are made."""
        self._chars -= count
        if self._chars < 0:
            raise TemplateLimitError("it makes too much text")
        self.step(1 + (count >> 12))

    def weigh(self, value: object, depth: int = 0) -> int:
        """The number of elements in a container and in its elements, which is bounded."""
        if not isinstance(value, list | tuple | dict):
            return 1
        known = self._weights.get(id(value))
        if known is not None:
            return known[1]
        if depth > MAX_DEPTH:
            raise TemplateLimitError("its lists are nested too deeply")
        self.step(1 + len(value) // 8)
        entries = value.values() if isinstance(value, dict) else value
        weight = 1 + sum(self.weigh(entry, depth + 1) for entry in entries)
        if weight > self._weight:
            raise TemplateLimitError("its lists hold too much")
        self._weights[id(value)] = value, weight
        return weight


class _Current(threading.local):
    budget: Budget | None = None


_current = _Current()


class spending:
    """`with spending(budget):` charges the operations of this thread to it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> None:
        self._before, _current.budget = _current.budget, self._budget

    def __exit__(self, *_exception: object) -> None:
        _current.budget = self._before


def budget() -> Budget:
    """The budget of the rendering that runs on this thread."""
    if _current.budget is None:
        raise TemplateLimitError("it runs outside of a rendering")
    return _current.budget


def check_number(value: object) -> None:
    """TemplateLimitError for a whole number of many digits, with which arithmetic becomes slow."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise TemplateLimitError("its numbers are too large")


def check_width(*specs: object) -> None:
    """TemplateLimitError if a width or a format spec asks for a field that is very wide."""
    for spec in specs:
        widths = [spec] if isinstance(spec, int) else map(int, _NUMBER.findall(str(spec)[:MAX_WIDTH]))
        if any(abs(width) > MAX_WIDTH for width in widths):
            raise TemplateLimitError("its fields are too wide")


def plain_size(messages: Sequence[Mapping[str, object]]) -> int:
    """Roughly the number of characters in the messages."""
    return sum(len(value) for message in messages for value in message.values() if isinstance(value, str))
