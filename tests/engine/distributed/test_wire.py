"""Every rank decodes the command that rank 0 encoded, and refuses any other tensor."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.distributed.wire import FILES, NOP, STEP, STOP, RankCommand, decode_command, encode_command
from engine.kv_store.commands import COMMIT, POLL, RESTORE, PageTransfer, StoreCommand
from engine.scheduler.kv_cache.page_copies import PageCopies
from engine.scheduler.step_plan import NewSequence, PrefillChunk, StepPlan, Verification, float32

int31 = st.integers(0, 2**31 - 1)
new_sequences = st.builds(
    NewSequence,
    row=int31,
    temperature=st.floats(-10, 10, width=32),
    top_p=st.floats(0, 1, width=32),
    seed=st.integers(0, 2**64 - 1),
    is_adjusted=st.booleans(),
)
tokens = st.lists(int31, min_size=1, max_size=9).map(tuple)
chunks = st.builds(PrefillChunk, row=int31, start=int31, token_ids=tokens, is_last=st.booleans())
verifications = st.builds(Verification, row=int31, drafts=tokens)
plans = st.builds(
    StepPlan,
    step=st.integers(0, 2**32 - 1),
    new_sequences=st.lists(new_sequences, max_size=4).map(tuple),
    page_grants=st.lists(st.tuples(int31, int31, int31), max_size=5).map(tuple),
    chunks=st.lists(chunks, max_size=4).map(tuple),
    verifications=st.lists(verifications, max_size=4).map(tuple),
    decode_rows=st.lists(int31, max_size=5).map(tuple),
    freed_rows=st.lists(int31, max_size=5).map(tuple),
    copies=st.builds(
        PageCopies,
        duplicates=st.lists(st.tuples(int31, int31), max_size=3).map(tuple),
        overwritten_pages=st.lists(int31, max_size=3).map(tuple),
        overwritten_slots=st.lists(int31, max_size=3).map(tuple),
        restores=st.lists(st.tuples(int31, int31), max_size=3).map(tuple),
        saves=st.lists(st.tuples(int31, int31), max_size=3).map(tuple),
    ),
)


@given(plans)
def test_a_plan_survives_the_wire(plan: StepPlan) -> None:
    tensor = encode_command(RankCommand(STEP, plan))
    assert tensor.dtype == torch.int32
    assert tensor.dim() == 1
    assert decode_command(tensor) == RankCommand(STEP, plan)


def test_a_command_for_the_files_round_trips() -> None:
    transfers = (PageTransfer(0, (1 << 64) - 1, -1, 7), PageTransfer((1 << 18) - 1, 1 << 31, 5))
    for command in (StoreCommand(RESTORE, transfers), StoreCommand(COMMIT, (), (3, 1, 2)), StoreCommand(POLL)):
        tensor = encode_command(RankCommand(FILES, files=command))
        assert int(tensor[1]) == len(tensor)
        assert decode_command(tensor) == RankCommand(FILES, files=command)
    tensor = encode_command(RankCommand(FILES, files=StoreCommand(COMMIT, transfers, (1, 2))))
    tensor[3] += 1
    with pytest.raises(ValueError):
        decode_command(tensor)


@pytest.mark.parametrize("op", [NOP, STOP])
def test_a_command_without_a_plan_survives_the_wire(op: int) -> None:
    assert decode_command(encode_command(RankCommand(op))) == RankCommand(op)


@given(plans, st.data())
def test_a_truncated_command_is_refused(plan: StepPlan, data: st.DataObject) -> None:
    tensor = encode_command(RankCommand(STEP, plan))
    with pytest.raises(ValueError):
        decode_command(tensor[: data.draw(st.integers(0, len(tensor) - 1))])


def test_a_command_with_a_wrong_count_is_refused() -> None:
    tensor = encode_command(RankCommand(STEP, StepPlan(1, decode_rows=(1, 2))))
    tensor[7] = 1
    with pytest.raises(ValueError):
        decode_command(tensor)


@given(st.floats(-1e30, 1e30))
def test_float32_is_what_the_wire_holds(value: float) -> None:
    sequence = NewSequence(0, float32(value), 0.0, 0)
    sent = decode_command(encode_command(RankCommand(STEP, StepPlan(0, (sequence,))))).plan
    assert sent is not None
    assert sent.new_sequences == (sequence,)


def test_sampled_rows_are_finished_prompts_then_verifications_then_decode_rows() -> None:
    chunks = (PrefillChunk(3, 0, (1,), True), PrefillChunk(1, 0, (1,), False))
    plan = StepPlan(0, chunks=chunks, verifications=(Verification(4, (7, 8)),), decode_rows=(0, 2))
    assert plan.sampled_rows == (3, 4, 4, 4, 0, 2)
