"""Engines that are killed or stopped and start again while pages still come back, members write, cancel and are erased.

The state machine (`test_scheduler_machine.py`) seldom starts an engine twice within a few steps. Here that is the rule:
what is restored has to wait for slots, pages and requests, and the files are from several engines.
"""

from collections.abc import Callable
from random import Random

import pytest

from engine.core.kv_files import cache_files
from tests.engine.scheduler.test_scheduler_machine import SchedulerMachine


class Life:
    """Random events of one server, with dialogs of few tokens that branch off from each other."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.machine = machine = SchedulerMachine()
        self.num_slots = random.choice([0, 1, 2, 3, 6, 12])
        machine.start(
            max_num_seqs=random.randint(1, 4), num_extra_pages=random.choice([0, 2, 6, 12]),
            max_prefill_tokens=random.choice([2, 4, 5, 12]), overlap=random.random() < 0.4,
            page_lookahead=random.randint(1, 3), num_slots=self.num_slots, pages_per_step=random.randint(1, 5),
            min_restored_pages=random.randint(1, 3), late=random.random() < 0.5,
            num_records=random.choice([3, 6, 12, 40]), max_draft_tokens=random.choice([0, 3]), wrong_every=3,
            apart=random.random() < 0.5, by_model=random.random() < 0.2,
        )  # fmt: skip
        self.dialogs = {tenant: [self.tokens(length) for length in (9, 25)] for tenant in "ab"}

    def tokens(self, count: int) -> list[int]:
        return [self.random.randrange(3) for _ in range(count)]

    def run(self, num_events: int) -> None:
        events: list[tuple[int, Callable[[], object]]] = [
            (30, self.write), (35, self.steps), (7, self.cancel), (8, self.store), (3, self.erase),
            (3, self.grow), (2, self.machine.finish), (2, self.fail), (7, self.restart),
        ]  # fmt: skip
        for _ in range(num_events):
            [event] = self.random.choices([each for _, each in events], [weight for weight, _ in events])
            event()
            self.machine.pages_are_where_they_should_be()
        self.machine.finish()

    def write(self) -> None:
        random, tenant = self.random, self.random.choice("ab")
        dialogs = self.dialogs[tenant]
        prompt = [*random.choice(dialogs)[: random.choice([0, 4, 8, 12, 16, 30])], *self.tokens(random.randint(1, 9))]
        if random.random() < 0.3:
            dialogs[random.randrange(2)] = prompt[:30]
        self.machine._submit(
            tenant, random.choice("xyz"), prompt[:34], random.choice([1, 3, 6]), frozenset(), random.randrange(2)
        )

    def steps(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            self.machine._step()
            if self.random.random() < 0.5:
                self.machine.files.step(idle=True)

    def cancel(self) -> None:
        for request in self.machine.requests[-4:]:
            if self.random.random() < 0.5:
                self.machine.scheduler.cancel_request(request)

    def store(self) -> None:
        self.machine.write_files(times=self.random.randint(1, 4), commits=self.random.random() < 0.4)

    def erase(self) -> None:
        """What the tenant's requests hold goes later, when these end."""
        tenant = self.random.choice("ab")
        self.machine.scheduler.erase(tenant)
        self.machine.files.erase(tenant)

    def grow(self) -> None:
        host = self.machine.scheduler.cache.host
        host.grow(host.num_slots + 3)

    def fail(self) -> None:
        """A request's logits are NaN."""
        for request in self.machine.requests:
            if request.row >= 0 and not request.num_in_flight_tokens:
                self.machine.scheduler._pool.finish(request, "error")
                break

    def restart(self) -> None:
        """In order, or by a signal that nothing can answer."""
        machine, random = self.machine, self.random
        for request in machine.requests:
            machine.scheduler.cancel_request(request)
        machine.in_flight.clear()
        if random.random() < 0.4:
            machine.files.close()
        machine.store.reopen({random.randrange(12)} if random.random() < 0.3 else set())
        machine._start_engine()


def live(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in seeds:
        monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.01 if seed % 3 else 0.0)
        try:
            Life(seed).run(60)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


def test_replies_and_pages_are_right_whenever_engines_end(monkeypatch: pytest.MonkeyPatch) -> None:
    live(range(120), monkeypatch)


@pytest.mark.long
def test_many_more_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    live(range(120, 2000), monkeypatch)
