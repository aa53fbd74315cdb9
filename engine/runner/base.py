"""The interface of a runner, which executes step plans on this rank's device.

A runner owns the rows of the persistent batch, the KV pages and the model's forward pass. It does as the plan says: it
knows no queue, no stop token and no client. Every rank executes the same plans, and the ids that rank 0 samples in a
step are the ids of that step on all ranks.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from engine.logits_params import TokenLogprobs
from engine.runner.page_images import PageImages
from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.drafts.verification import VerifiedRun
from engine.scheduler.step_plan import StepPlan

StepHandle = TypeVar("StepHandle")  # a launched step, whose sampled ids may not be there yet; opaque to the caller


class Runner(Protocol[StepHandle]):
    """What the engine core asks of a runner. One thread makes all calls.

    Steps finish in the order in which they were launched. Step n + 1 may be launched before step n has been waited for.
    """

    num_kv_pages: int  # a plan may grant pages 0 … num_kv_pages - 1
    num_host_slots: int  # slots of the host tier, once all are ready
    draft_limits: DraftLimits  # what it verifies, and what that costs
    drafts_by_default: bool  # drafts pay here, and change a token's logits no more than the rows beside it do

    @property
    def num_ready_slots(self) -> int:
        """A plan may use slots 0 … num_ready_slots - 1 of the host tier. The number may grow."""
        ...

    def execute_async(self, plan: StepPlan) -> StepHandle:
        """Launch a step without waiting for the device.

        The next plan may already decode this step's rows: their sampled ids stay on the device.
        """
        ...

    def wait(self, handle: StepHandle) -> dict[int, int]:
        """Wait for a step; return the id sampled for each of `plan.sampled_rows`. `verified` has those of drafts.

        An id of -1 means that the row's logits cannot be sampled from: one is NaN or +∞, or all are −∞. If such a row
        decodes again before it is freed, the runner feeds it id 0.
        """
        ...

    def logprobs(self, handle: StepHandle) -> dict[int, TokenLogprobs]:
        """The log-probabilities at the sampled ids of a step that has been waited for, by row; rank 0 only.

        Rows that ask for none, rows whose id is -1, and rows that `verified` has are missing.
        """
        ...

    def verified(self, handle: StepHandle) -> dict[int, VerifiedRun]:
        """What the rows that verified drafts in a step sampled, once it has been waited for.

        The next plan may decode such a row: it goes on after the last of these ids.
        """
        ...

    @property
    def page_bytes(self) -> int:
        """Bytes of one page, and of one slot."""
        ...

    def export_pages(self, places: Sequence[tuple[int, int]]) -> PageImages:
        """Copies of (page, slot): the page, or the slot where the page is -1.

        They contain what all plans so far have written there, and nothing of later ones.
        """
        ...

    def import_pages(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """Write what `export_pages` has copied to pages or slots. Later plans find it there."""
        ...

    def prepare(self) -> bool:
        """Do a piece of the work that makes later steps faster, between two steps; False if none is left.

        On ranks of a group it never does anything: they would have to do it together.
        """
        ...

    def allocated_bytes(self) -> int:
        """Bytes that this rank holds on its device."""
        ...

    def close(self) -> None:
        """Release the device. Call it before the process group is destroyed: CUDA graphs may refer to the group."""
        ...


AnyRunner: TypeAlias = Runner[Any]  # for callers that never look into a handle
