"""A plan is the same on every rank: what one encodes, the others decode, and nothing else passes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.step_plan import NOP, STEP, STOP, Chunk, Order, Plan, RowSetup, decode, encode, float32

small = st.integers(0, 2**31 - 1)
setups = st.builds(
    RowSetup,
    row=small,
    temperature=st.floats(-10, 10, width=32),
    top_p=st.floats(0, 1, width=32),
    seed=st.integers(0, 2**64 - 1),
)
chunks = st.builds(
    Chunk, row=small, start=small, tokens=st.lists(small, min_size=1, max_size=9).map(tuple), last=st.booleans()
)
plans = st.builds(
    Plan,
    step=st.integers(0, 2**32 - 1),
    setups=st.lists(setups, max_size=4).map(tuple),
    grants=st.lists(st.tuples(small, small, small), max_size=5).map(tuple),
    chunks=st.lists(chunks, max_size=4).map(tuple),
    decode=st.lists(small, max_size=5).map(tuple),
    freed=st.lists(small, max_size=5).map(tuple),
)


@given(plans)
def test_a_plan_survives_the_wire(plan: Plan) -> None:
    tensor = encode(Order(STEP, plan))
    assert tensor.dtype == torch.int32
    assert tensor.dim() == 1
    assert decode(tensor) == Order(STEP, plan)


@pytest.mark.parametrize("op", [NOP, STOP])
def test_orders_without_a_plan(op: int) -> None:
    assert decode(encode(Order(op))) == Order(op)


@given(plans, st.data())
def test_a_cut_plan_is_refused(plan: Plan, data: st.DataObject) -> None:
    tensor = encode(Order(STEP, plan))
    with pytest.raises(ValueError):
        decode(tensor[: data.draw(st.integers(0, len(tensor) - 1))])


def test_a_plan_whose_sizes_lie_is_refused() -> None:
    tensor = encode(Order(STEP, Plan(1, decode=(1, 2))))
    tensor[6] = 1
    with pytest.raises(ValueError):
        decode(tensor)


@given(st.floats(-1e30, 1e30))
def test_float32_is_what_the_wire_holds(value: float) -> None:
    setup = RowSetup(0, float32(value), 0.0, 0)
    sent = decode(encode(Order(STEP, Plan(0, (setup,))))).plan
    assert sent is not None
    assert sent.setups == (setup,)


def test_sampled_rows_are_finished_prompts_then_decode_rows() -> None:
    plan = Plan(0, chunks=(Chunk(3, 0, (1,), True), Chunk(1, 0, (1,), False)), decode=(0, 2))
    assert plan.sampled == (3, 0, 2)
