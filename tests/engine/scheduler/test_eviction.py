"""The queues from which evictions choose, beside a list that is sorted anew for each question."""

from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.kv_cache.eviction import EvictionQueue
from engine.scheduler.kv_cache.page_table import PrefixNode

CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 7), st.integers(0, 4)),
        st.tuples(st.sampled_from(["use", "spoil", "discard", "peek"]), st.integers(0, 7), st.integers(0, 4)),
    ),
    max_size=60,
)


class Sorted:
    """The same rules, slowly: (recency, serial number) of each node as it was pushed last."""

    def __init__(self, newest_first: bool) -> None:
        self.newest_first = newest_first
        self.pushed: dict[PrefixNode, tuple[int, int]] = {}
        self.serial = 0

    def push(self, node: PrefixNode) -> None:
        self.serial += 1
        recency, serial = self.pushed.get(node, (-1, 0))
        if recency != node.recency or self.newest_first:
            serial = self.serial
        self.pushed[node] = (node.recency, serial)

    def peek(self, spoiled: set[PrefixNode]) -> PrefixNode | None:
        ordered = sorted(self.pushed, key=self.pushed.__getitem__, reverse=self.newest_first)
        while ordered:
            node = ordered.pop(0)
            if node not in spoiled and self.pushed[node][0] == node.recency:
                return node
            del self.pushed[node]
        return None


@given(st.booleans(), CALLS)
def test_the_first_candidate_is_that_of_a_sorted_list(newest_first: bool, calls: list[tuple[str, int, int]]) -> None:
    nodes = [PrefixNode("", (number,), None) for number in range(8)]
    spoiled: set[PrefixNode] = set()
    queue, model = EvictionQueue(lambda node: node not in spoiled, newest_first=newest_first), Sorted(newest_first)
    for name, number, time in calls:
        node = nodes[number]
        if name == "push":
            spoiled.discard(node)
            node.last_used = time
            queue.push(node)
            model.push(node)
        elif name == "use":
            node.last_used = time
        elif name == "spoil":
            spoiled.add(node)
        elif name == "discard":
            queue.discard(node)
            model.pushed.pop(node, None)
        else:
            assert queue.peek() is model.peek(spoiled)
        assert set(queue) == set(model.pushed)
        assert len(queue) == len(model.pushed)
    assert queue.peek() is model.peek(spoiled)


def test_a_node_that_is_used_again_and_again_takes_no_more_memory() -> None:
    queue = EvictionQueue(lambda _: True, newest_first=True)
    node, other = PrefixNode("", (1,), None), PrefixNode("", (2,), None)
    for time in range(10_000):
        node.last_used = time
        queue.push(node)
        other.last_used = time // 2
        queue.push(other)
    assert len(queue) == 2
    assert len(queue._keys) < 200


def test_no_call_looks_at_many_nodes() -> None:
    looked_at = 0

    def is_candidate(_: PrefixNode) -> bool:
        nonlocal looked_at
        looked_at += 1
        return True

    queue = EvictionQueue(is_candidate)
    nodes = [PrefixNode("", (number,), None) for number in range(1000)]
    for time in range(100):
        for node in nodes:
            node.last_used = time
            queue.push(node)
        assert queue.peek() is nodes[0]
    assert looked_at == 100
