"""Counts the steps that real replies take on a GPU, where drafts are made a step ahead of the ids.

    python docs/bench/scripts/drafts_ahead.py [--decode-ms 3.59] [--verify-ms 4.05]

The embedded model writes the replies of `engine.bench.drafts` on the CPU, greedily. Then the scheduler plans them again
with the limits of a GPU and steps that overlap, and a runner that knows the replies. With the times of a step that
decodes and of one that verifies up to 15 drafts of one row, that says how much sooner a reply would come.
"""

import argparse
from dataclasses import replace

from engine.bench.drafts import DIALOGS, REPLY_TOKENS
from engine.bench.report import emit, today
from engine.chat.chat_format import choose_format
from engine.chat.formats import Message
from engine.checkpoint import open_checkpoint
from engine.config import resolve
from engine.core.engine_core import EngineCore
from engine.kernels.verification import MAX_RUN
from engine.runner.cuda.batch.verify_limits import COST, FIRST_COST, TOKEN_COUNTS
from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.drafts.verification import VerifiedRun, num_accepted
from engine.scheduler.output import ScheduledStep
from engine.scheduler.request import Request, SamplingParams
from engine.scheduler.scheduler import Scheduler
from engine.tokenizers.piecewise import PiecewiseEncoder

CONTEXT = 2048


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--decode-ms", type=float, default=3.59)
    parser.add_argument("--verify-ms", type=float, default=4.05)
    options = parser.parse_args()
    checkpoint = open_checkpoint("smollm2")
    chat = choose_format(checkpoint.spec, PiecewiseEncoder(checkpoint.tokenizer())).format
    config = resolve(checkpoint.spec, device="cpu", max_context=CONTEXT, seed=1)
    engine = EngineCore.start(replace(config, speculate="off"), checkpoint)
    params = SamplingParams(temperature=0.0, max_tokens=REPLY_TOKENS, stop_token_ids=chat.stop_ids)
    for name, dialog in DIALOGS.items():
        prompt = chat.encode([Message(role=role, content=text) for role, text in dialog])
        reply = engine.submit(prompt, params).result()
        steps = count_steps(prompt, reply)
        before = len(reply) * options.decode_ms
        after = steps["decode_steps"] * options.decode_ms + steps["verify_steps"] * options.verify_ms
        facts = {"decode_ms": options.decode_ms, "verify_ms": options.verify_ms, "model": "smollm2", "date": today()}
        emit({
            "engine": "guildllama", "workload": f"W10.ahead-{name}", "reply_tokens": len(reply), **steps,
            "gain": round(before / after, 3), **facts,
        })  # fmt: skip
    engine.close()


def count_steps(prompt: list[int], reply: list[int]) -> dict[str, int]:
    """The steps of one request after its first token."""
    limits = DraftLimits(MAX_RUN - 1, COST, FIRST_COST, TOKEN_COUNTS[-1], beside_prompts=False)
    scheduler = Scheduler(
        max_num_seqs=32, num_pages=CONTEXT // 16, max_prefill_tokens=512, max_context=CONTEXT, draft_limits=limits
    )
    request = Request(0, list(prompt), SamplingParams(temperature=0.0, max_tokens=len(reply)))
    scheduler.add_request(request)
    said = [*reply, *[0] * 2 * CONTEXT]
    position, steps = 0, {"decode_steps": 0, "verify_steps": 0}  # position: of the next token of the reply
    in_flight: list[tuple[ScheduledStep, dict[int, int], dict[int, VerifiedRun]]] = []
    while request.finish_reason is None:
        step = scheduler.schedule()
        if step is not None:
            verified, count = {}, 1
            for each in step.plan.verifications:
                count += num_accepted(each.drafts, said[position : position + each.num_samples])
                verified[each.row] = VerifiedRun(tuple(said[position : position + count]))
            in_flight.append((step, dict.fromkeys(step.plan.sampled_rows, said[position]), verified))
            position += count if step.sampled else 0
            steps["verify_steps"] += bool(step.plan.verifications)
            steps["decode_steps"] += bool(step.plan.decode_rows and not step.plan.verifications)
        if in_flight and (step is None or len(in_flight) > 1):
            done, ids, runs = in_flight.pop(0)
            scheduler.update_from_output(done, ids, verified=runs)
    assert request.output_token_ids == reply
    totals = scheduler.totals
    return {**steps, "drafted": totals.drafted_tokens, "accepted": totals.accepted_tokens}


if __name__ == "__main__":
    main()
