"""Requests over pages and slots through the real runner: replies are those of each request alone, and no byte of one
tenant is read for another.

Before a step computes for a tenant, all pages that are free or not that tenant's hold NaN, and so do all slots from
which nothing may be restored. NaN that is read anywhere reaches the logits.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import settings

from engine.checkpoint import ModelSpec
from engine.config import EngineConfig
from engine.layers.paged_attention import DenseAttention
from engine.model.rope import rope_table
from engine.model.transformer import Transformer
from engine.runner.page_images import PageImages
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.drafts.verification import VerifiedRun
from engine.scheduler.kv_cache.page_copies import NO_COPIES, PageCopies
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler
from engine.scheduler.step_plan import StepPlan
from tests.engine.scheduler.test_scheduler_machine import MAX_CONTEXT, PAGE_SIZE, Machine, SchedulerMachine

CPU = torch.device("cpu")


def make_model() -> Transformer:
    spec = ModelSpec(
        format="meta", chat="llama2", dim=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=24,
        vocab_size=11, norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, max_context=MAX_CONTEXT,
        tied_embeddings=False, dtype=torch.float32, shards=1,
    )  # fmt: skip
    model = Transformer(spec, dtype=torch.float32)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        scale = 1.0 if parameter.dim() == 1 else 2 * parameter.shape[-1] ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    model.rope = rope_table(spec, MAX_CONTEXT, CPU)
    return model.eval()


MODEL = make_model()
_NEXT: dict[tuple[int, ...], int] = {}  # the token that follows these, computed without pages


@torch.inference_mode()
def next_token(token_ids: tuple[int, ...]) -> int:
    if token_ids not in _NEXT:
        length = len(token_ids)
        hidden = MODEL(torch.tensor(token_ids), torch.arange(length), DenseAttention(length, CPU))
        _NEXT[token_ids] = int(MODEL.logits(hidden[-1:]).argmax())
    return _NEXT[token_ids]


class PoisoningRunner:
    """Executes plans on a TorchRunner, one tenant after the other, with NaN in all that is not for this tenant to read.

    It looks at the scheduler to see what belongs to whom.
    """

    def __init__(self, scheduler: Scheduler, max_num_seqs: int, num_pages: int, num_slots: int) -> None:
        config = EngineConfig(
            CPU, torch.float32, max_num_seqs=max_num_seqs, max_context=MAX_CONTEXT, max_prefill_tokens=16,
            page_size=PAGE_SIZE,
        )  # fmt: skip
        self.runner = TorchRunner(config, MODEL, num_pages, num_slots)
        self.pages, self.slots = self.runner.kv.pages, self.runner._host_pages.parts[0]
        self.pages.fill_(torch.nan)
        self.slots.fill_(torch.nan)
        self._scheduler = scheduler
        self.verified: dict[int, VerifiedRun] = {}  # by the last plan

    def execute(self, plan: StepPlan) -> dict[int, int]:
        """Row -> sampled id."""
        batch = list(self._scheduler._batch)
        pages, slots = self._owners(batch)
        tenants = {request.row: request.tenant for request in batch}
        copies = plan.copies
        self._copy(replace(copies, restores=(), saves=()))
        for tenant in sorted({pages[page_id] for _, page_id in copies.restores}):
            restores = tuple(pair for pair in copies.restores if pages[pair[1]] == tenant)
            readable = {slot for slot, _ in restores} | {slot for slot, owner in slots.items() if owner == tenant}
            kept = self._poison(self.slots, readable)
            self._copy(PageCopies(restores=restores))
            assert bool(self.pages[[page_id for _, page_id in restores]].isfinite().all())
            self.slots[kept[0]] = kept[1]
        self._copy(PageCopies(saves=copies.saves))
        assert bool(self.slots[[slot for _, slot in copies.saves]].isfinite().all())
        self.runner.execute_async(replace(plan, chunks=(), verifications=(), decode_rows=(), copies=NO_COPIES))
        ids: dict[int, int] = {}
        self.verified = {}
        rows = [*(each.row for each in (*plan.chunks, *plan.verifications)), *plan.decode_rows]
        for tenant in sorted({tenants[row] for row in rows}):
            kept = self._poison(self.pages, {page_id for page_id, owner in pages.items() if owner == tenant})
            ids |= self._compute(
                StepPlan(
                    0,
                    chunks=tuple(chunk for chunk in plan.chunks if tenants[chunk.row] == tenant),
                    verifications=tuple(each for each in plan.verifications if tenants[each.row] == tenant),
                    decode_rows=tuple(row for row in plan.decode_rows if tenants[row] == tenant),
                )
            )
            self.pages[kept[0]] = kept[1]
        assert all(token >= 0 for token in ids.values()), "a logit is NaN"
        self._poison(self.pages, set(self._owners(batch)[0]))  # free ones, for good
        self._poison(self.slots, {*slots, *self._scheduler.cache.host._to_overwrite})
        return ids

    def export_pages(self, places: Sequence[tuple[int, int]]) -> PageImages:
        """What goes to files."""
        assert all(
            self.pages[page].isfinite().all() if page >= 0 else self.slots[slot].isfinite().all()
            for page, slot in places
        )
        return self.runner.export_pages(places)

    def import_pages(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """What comes back from files."""
        self.runner.import_pages(places, images)

    def _compute(self, plan: StepPlan) -> dict[int, int]:
        handle = self.runner.execute_async(plan)
        self.verified |= self.runner.verified(handle)
        return self.runner.wait(handle)

    def _copy(self, copies: PageCopies) -> None:
        self.runner._host_pages.copy(copies)

    def _poison(self, memory: torch.Tensor, readable: set[int]) -> tuple[list[int], torch.Tensor]:
        """Fill all but the readable pages or slots with NaN; returns what they held."""
        others = [number for number in range(len(memory)) if number not in readable]
        kept = others, memory[others].clone()
        memory[others] = torch.nan
        return kept

    def _owners(self, batch: list[Request]) -> tuple[dict[int, str], dict[int, str]]:
        """The tenants of all pages and slots that are not free."""
        pages: dict[int, str] = {}
        slots: dict[int, str] = {}
        for tenant, root in self._scheduler.cache._trie.roots.items():
            for node in root.descendants():
                pages |= {node.page_id: tenant} if node.in_page else {}
                slots |= {node.host_slot: tenant} if node.in_slot else {}
        for request in batch:
            pages |= dict.fromkeys(request.page_table.page_ids, request.tenant)
        for node in self._scheduler.cache.host._to_restore:
            slots[node.host_slot] = node.tenant
        return pages, slots


class TierMachine(SchedulerMachine):
    """The scheduler and a poisoning runner."""

    def make_machine(self, max_num_seqs: int, num_pages: int, num_slots: int, late: bool) -> Machine:
        return PoisoningRunner(self.scheduler, max_num_seqs, num_pages, num_slots)

    def expected_reply(self, prompt: list[int], length: int, stop: frozenset[int], seed: int) -> list[int]:
        token_ids = list(prompt)
        while len(token_ids) - len(prompt) < length:
            token = next_token(tuple(token_ids))
            if token in stop:
                break
            token_ids.append(token)
        return token_ids[len(prompt) :]


TierMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestTiers = TierMachine.TestCase


@pytest.mark.long
def test_many_more_interleavings() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(TierMachine, settings=settings(max_examples=120, stateful_step_count=30, deadline=None))


class Dialogs:
    """A scheduler and a poisoning runner for requests one after the other."""

    def __init__(self, num_pages: int, num_slots: int, **changes: int) -> None:
        options = {"max_prefill_tokens": 16, "max_num_seqs": 2, "min_restored_pages": 1} | changes
        self.scheduler = Scheduler(
            num_pages=num_pages, max_context=MAX_CONTEXT, page_size=PAGE_SIZE, max_host_slots=num_slots,
            **options,
        )  # fmt: skip
        self.scheduler.cache.host.grow(num_slots)
        self.runner = PoisoningRunner(self.scheduler, 2, num_pages, num_slots)
        self.count = 0

    def start(self, tenant: str, prompt: list[int], length: int = 4) -> Request:
        self.count += 1
        request = Request(self.count, prompt, SamplingParams(temperature=0.0, max_tokens=length), 0, "c", tenant)
        self.scheduler.add_request(request)
        return request

    def step(self) -> bool:
        step = self.scheduler.schedule()
        if step is None:
            return False
        self.scheduler.update_from_output(step, self.runner.execute(step.plan))
        self.scheduler.cache.check(request.page_table for request in self.scheduler._batch)
        return True

    def serve(self, tenant: str, prompt: list[int], length: int = 4) -> Request:
        """One request to its end, with the reply that it must have."""
        request = self.start(tenant, list(prompt), length)
        while request.status is not RequestStatus.FINISHED:
            assert self.step()
        for n in range(length):
            assert request.token_ids[len(prompt) + n] == next_token(tuple(request.token_ids[: len(prompt) + n]))
        return request


def dialog(seed: int, length: int = 25) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [seed % 11, *torch.randint(0, 11, (length - 1,), generator=generator).tolist()]


def test_a_dialog_that_others_pushed_out_is_restored_and_not_computed() -> None:
    dialogs = Dialogs(num_pages=16, num_slots=40)
    for number in range(4):
        dialogs.serve(f"guild {number}", dialog(number))
    again = dialogs.serve("guild 0", dialog(0))
    assert again.usage.cached_tokens == 24
    assert dialogs.scheduler.cache.host.num_restored_pages == 6
    assert dialogs.scheduler.cache.num_evicted_pages == 0
    assert dialogs.serve("guild 1", [*dialog(1, 23), 0, 0]).usage.cached_tokens == 20


def test_without_slots_it_is_computed() -> None:
    dialogs = Dialogs(num_pages=16, num_slots=0)
    for number in range(4):
        dialogs.serve(f"guild {number}", dialog(number))
    assert dialogs.serve("guild 0", dialog(0)).usage.cached_tokens == 0


def test_pages_and_slots_together_hold_more_dialogs_than_either() -> None:
    """Slots are taken from dialogs that are in pages as well: nothing is lost while both together have room."""
    dialogs = Dialogs(num_pages=120, num_slots=120)
    for number in range(29):  # of 7 pages each
        dialogs.serve(f"guild {number}", dialog(number))
    cached = [dialogs.serve(f"guild {number}", dialog(number)).usage.cached_tokens for number in range(29)]
    assert cached == [24] * 29


def test_few_pages_are_computed_instead_of_restored() -> None:
    dialogs = Dialogs(num_pages=16, num_slots=40, min_restored_pages=3)
    for number in range(4):
        dialogs.serve(f"guild {number}", dialog(number))
    assert dialogs.serve("guild 0", [*dialog(0, 8), 1, 2, 3, 4, 5]).usage.cached_tokens == 0
    assert dialogs.scheduler.cache.host.num_restored_pages == 0
    assert dialogs.serve("guild 1", [*dialog(1, 12), 1, 2, 3, 4, 5]).usage.cached_tokens == 12


def test_others_decode_while_a_dialog_is_restored_and_who_shares_it_waits_too() -> None:
    page_bytes = 256 << 20  # one page a step
    dialogs = Dialogs(num_pages=24, num_slots=60, max_num_seqs=2, page_bytes=page_bytes)
    for number in range(6):
        dialogs.serve(f"guild {number}", dialog(number))
    other = dialogs.start("guild 5", dialog(5), length=12)
    dialogs.step()
    decoded = []
    first = dialogs.start("guild 0", dialog(0))
    while first.num_in_flight_tokens == 0 and len(first.token_ids) == 25:
        before = len(other.token_ids)
        dialogs.step()
        decoded.append(len(other.token_ids) - before)
    assert len(decoded) == 7  # six pages, one a step, then the rest of the prompt
    assert decoded == [1] * 7
    while dialogs.step():
        pass
    assert first.usage.cached_tokens == 24


def test_what_is_erased_is_in_no_page_and_no_slot() -> None:
    """Looks at the memory itself: the keys and values of a tenant's tokens are nowhere any more."""
    dialogs = Dialogs(num_pages=20, num_slots=20)
    pages, slots = dialogs.runner.pages, dialogs.runner.slots
    dialogs.serve("erased", dialog(1))
    # Of the second layer, where they depend on all tokens before: no other tenant has the same ones.
    traces = {tuple(vector.tolist()) for vector in pages[:, 1].reshape(-1, 8) if bool(vector.isfinite().all())}
    for number in range(2, 5):
        dialogs.serve("kept", dialog(number))
    running = dialogs.start("erased", [*dialog(1), *dialog(9, 6)], length=6)
    waiting = dialogs.start("erased", [*dialog(1), 1], length=2)
    dialogs.step()

    def found(memory: torch.Tensor) -> int:
        return sum(tuple(vector.tolist()) in traces for vector in memory.reshape(-1, 8))

    assert found(pages)
    assert found(slots)
    assert dialogs.scheduler.erase("erased") > 0
    while dialogs.step():
        pass
    assert running.status is waiting.status is RequestStatus.FINISHED
    assert (found(pages), found(slots)) == (0, 0)
    assert dialogs.scheduler.cache.num_held_pages == 0
    assert dialogs.serve("kept", dialog(4)).usage.cached_tokens == 24
    assert dialogs.serve("erased", dialog(1)).usage.cached_tokens == 0
