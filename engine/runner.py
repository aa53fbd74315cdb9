"""A runner executes plans on this rank's device: it owns the rows of the batch, the KV pages and the forward.

It obeys: no queue, no stop token, no client. Every rank runs the same plans; the ids that a step samples are rank 0's
on all of them.
"""

from typing import Protocol

from engine.config import EngineConfig
from engine.model import Transformer
from engine.plan import Plan


class Ticket(Protocol):
    """A launched step whose ids may not be there yet. What is inside is the runner's own."""


class Runner(Protocol):
    """What the core asks of a runner. One thread calls it, in this order: launch n, (launch n + 1,) collect n, …

    launch: starts the step; must not wait for the device. The next plan may name the rows of this one in `decode`, as
      the ids that they feed never leave the device.
    collect: row -> id sampled in that step (`plan.sampled`), waiting until it is there. An id of -1 says that the
      row's logits held a NaN or no finite number; the runner itself must feed a harmless id (0) until it is freed.
    """

    kv_pages: int  # ids 0 … kv_pages - 1 may be granted

    def launch(self, plan: Plan) -> Ticket: ...

    def collect(self, ticket: Ticket) -> dict[int, int]: ...

    def memory(self) -> int:
        """Bytes that this rank holds on its device."""
        ...

    def close(self) -> None:
        """Release the device: graphs first, as process groups must outlive them."""
        ...


def make_runner(config: EngineConfig, model: Transformer) -> Runner:
    """The runner for this device."""
    raise NotImplementedError
