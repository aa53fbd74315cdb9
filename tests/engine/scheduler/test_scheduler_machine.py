"""Whatever is submitted, cancelled, preempted and shared: every reply is that of the request alone."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.scheduler.output import ScheduledStep
from engine.scheduler.request import Request, RequestStatus, SamplingParams
from engine.scheduler.scheduler import Scheduler
from tests.engine.scheduler.page_machine import VOCAB, PageMachine, alone

PAGE, CONTEXT = 4, 40
PERSONAS: list[list[int]] = [[], [1] * 18, [1] * 8 + [2] * 14]


class Engine(RuleBasedStateMachine):
    """The scheduler and the page machine, with ids read at once or one step late, as the overlap does."""

    @initialize(
        rows=st.integers(1, 4),
        spare=st.integers(0, 12),
        chunk=st.integers(1, 12),
        late=st.booleans(),
        ahead=st.integers(1, 3),
    )
    def start(self, rows: int, spare: int, chunk: int, late: bool, ahead: int) -> None:
        pages = CONTEXT // PAGE + spare
        self.rows, self.chunk, self.late = rows, chunk, late
        self.scheduler = Scheduler(
            max_num_seqs=rows,
            num_pages=pages,
            max_prefill_tokens=chunk,
            max_context=CONTEXT,
            page_size=PAGE,
            page_lookahead=ahead,
        )
        self.machine = PageMachine(rows, pages, PAGE)
        self.flying: deque[tuple[ScheduledStep, dict[int, int]]] = deque()
        self.requests: list[Request] = []
        self.heard: dict[Request, list[int]] = {}
        self.dialogs: dict[str, list[int]] = {}

    @rule(
        tenant=st.sampled_from("ab"),
        client=st.sampled_from("xyz"),
        persona=st.sampled_from(PERSONAS),
        prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9),
        continues=st.booleans(),
        length=st.integers(1, 30),
        stops=st.booleans(),
        seed=st.integers(0, 2),
    )
    def submit(
        self,
        tenant: str,
        client: str,
        persona: list[int],
        prompt: list[int],
        continues: bool,
        length: int,
        stops: bool,
        seed: int,
    ) -> None:
        before = self.dialogs.get(tenant, persona) if continues else persona
        prompt = (before + prompt)[: CONTEXT - 2]
        stop = frozenset({0}) if stops else frozenset()
        params = SamplingParams(temperature=0.0, max_tokens=length, stop_token_ids=stop)
        request = Request(len(self.requests), prompt, params, seed, client, tenant)
        self.scheduler.add_request(request)
        self.requests.append(request)
        self.heard[request] = []

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.requests[-6:]))
        self.scheduler.cancel_request(request)
        assert request.status is RequestStatus.FINISHED

    @rule(steps=st.integers(1, 12))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._turn()

    @rule()
    def finish(self) -> None:
        """Everything ends, and then nothing is held."""
        for _ in range(3000):
            if not self._turn():
                break
        assert all(request.status is RequestStatus.FINISHED for request in self.requests)
        self.scheduler.cache.check()
        assert self.scheduler.cache.num_held_pages == 0
        assert self.scheduler.cache.num_available_pages == self.scheduler.cache.num_pages

    @invariant()
    def pages_are_where_they_should_be(self) -> None:
        if hasattr(self, "scheduler"):
            cache = self.scheduler.cache
            assert cache.num_held_pages + cache.num_available_pages == cache.num_pages
            assert self.scheduler.num_running <= self.rows

    def _turn(self) -> bool:
        step = self.scheduler.schedule()
        if step is not None:
            assert sum(len(chunk.token_ids) for chunk in step.plan.chunks) <= self.chunk
            self.flying.append((step, self.machine.launch(step.plan)))
        if self.flying and (not self.late or step is None or len(self.flying) > 1):
            for output in self.scheduler.update_from_output(*self.flying.popleft()):
                self._hear(output.request, output.token_ids)
            return True
        return step is not None

    def _hear(self, request: Request, ids: tuple[int, ...]) -> None:
        self.heard[request] += ids
        stop = request.params.stop_token_ids
        length = request.max_total_tokens - request.num_prompt_tokens
        expected = alone(request.token_ids[: request.num_prompt_tokens], length, stop, request.seed)
        heard = self.heard[request]
        assert heard == expected[: len(heard)]
        if request.finish_reason in ("stop", "length"):
            assert heard == expected
            assert (request.finish_reason == "length") == (len(heard) == length)
            self.dialogs[request.tenant] = request.token_ids
        assert request.output_token_ids == heard
        assert 0 <= request.usage.cached_tokens < request.num_prompt_tokens


Engine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestEngine = Engine.TestCase
