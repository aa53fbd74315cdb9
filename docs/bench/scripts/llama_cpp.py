"""Measures this engine beside llama.cpp's server on one GGUF file; prints JSON lines, then a table of the ratios.

    python docs/bench/scripts/llama_cpp.py --peer PATH/llama-server [--model C0=smollm2 C1=FILE.gguf] [--threads 1 2]

Both servers have the same file, number of threads, slots and context, and run at once; only one of them works at a
time. One HTTP client asks them in turn, each of a pair the same question, and the order changes from pair to pair.
Beside the clock the script reads the processor time of the server's process, which other programs disturb less. Drafts
are off, since llama.cpp makes none unless asked; `--speculate auto` turns ours on.

The workloads, as ids after the model's (C0: SmolLM2; C1, C2: 1 and 3 billion weights):
one, eight  64 tokens of prompt and 64 of reply for each user; tokens a second after the last user's first token
cold-128, cold-512  milliseconds to the first token of a prompt that is new (cold-512 of SmolLM2 is C3)
again-128, again-512  the same prompt again
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from servers import SLOTS, TICKS, Server, our_command, peer_command, serve

from engine.bench.cpu import machine
from engine.bench.drive import Sampling, send_all
from engine.bench.report import emit, today
from engine.bench.trace import PromptRequest
from engine.checkpoint.gguf.default_model import default_model

PROMPT_LEN, REPLY_LEN = 64, 64
COLD_PROMPTS = (128, 512)


@dataclass
class Result:
    """One workload of one server: a value for each pair, and the processor time in seconds."""

    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def prompt(length: int, number: int) -> list[int]:
    """The tokens of a question that no other number has, from the first one on."""
    return [(number * 7919 + at * 13 + at * at * 7) % 30000 + 1000 for at in range(length)]


def decode_rate(server: Server, users: int, number: int) -> float:
    """Tokens a second of `users` users, once all of them have their first."""
    requests = [PromptRequest(prompt(PROMPT_LEN, number * SLOTS + user), REPLY_LEN) for user in range(users)]
    record = asyncio.run(send_all(server.client, requests, Sampling()))
    start = max(request.token_times[0] for request in record.requests)
    end = max(request.token_times[-1] for request in record.requests)
    return sum(time > start for request in record.requests for time in request.token_times) / (end - start)


def first_token(length: int, server: Server, number: int) -> float:
    """Milliseconds until the answer of one token to a prompt of this length; each number has its own prompt."""
    request = PromptRequest(prompt(length, number + 5000 + length), 1)
    record = asyncio.run(send_all(server.client, [request], Sampling()))
    return 1000 * record.requests[0].ttft


def measurements(quick: bool) -> dict[str, Callable[[Server, int], float]]:
    """By workload: what a server does in pair `number`."""
    found: dict[str, Callable[[Server, int], float]] = {
        "one": lambda server, number: decode_rate(server, 1, number),
        "eight": lambda server, number: decode_rate(server, SLOTS, number + 1000),
    }
    for length in COLD_PROMPTS[: 1 if quick else None]:
        for name in ("cold", "again"):  # with the same numbers, in this order
            found[f"{name}-{length}"] = partial(first_token, length)
    return found


def compare(servers: Sequence[Server], pairs: int, quick: bool) -> Iterator[tuple[str, dict[str, Result]]]:
    """Each workload `pairs` times by both servers in turn: its name, and the results by the server's name."""
    for workload, measure in measurements(quick).items():
        results = {server.name: Result() for server in servers}
        for number in range(pairs):
            for server in servers if number % 2 else reversed(servers):
                before = server.cpu_seconds()
                results[server.name].values.append(measure(server, number))
                results[server.name].cpu.append(server.cpu_seconds() - before)
        yield workload, results


def lines(workload: str, results: dict[str, Result], facts: dict[str, object]) -> Iterator[dict[str, object]]:
    """One JSON line for each server."""
    unit = "ttft_ms" if "-" in workload.partition(".")[2] else "output_tok_s"
    for name, result in results.items():
        yield {
            "engine": name, "workload": workload, unit: round(statistics.median(result.values), 1),
            "least": round(min(result.values), 1), "most": round(max(result.values), 1),
            "cpu_s": round(statistics.median(result.cpu), 3), "pairs": len(result.values), **facts,
        }  # fmt: skip


def gains(results: dict[str, Result], is_time: bool) -> tuple[list[float], list[float]]:
    """How much faster ours was in each pair, by the clock and by processor time."""
    ours, peer = results.values()
    by_clock = [b / a if is_time else a / b for a, b in zip(ours.values, peer.values, strict=True)]
    return by_clock, [b / max(a, 1 / TICKS) for a, b in zip(ours.cpu, peer.cpu, strict=True)]


def row(workload: str, threads: int, results: dict[str, Result]) -> str:
    """One line of the table."""
    is_time = "-" in workload.partition(".")[2].partition(",")[0]
    by_clock, by_cpu = gains(results, is_time)
    cells = [f"{statistics.median(result.values):.1f}" for result in results.values()]
    spread = f"{statistics.median(by_clock):.2f} × ({min(by_clock):.2f} – {max(by_clock):.2f})"
    unit = "ms" if is_time else "tok/s"
    return (
        f"| {workload}, {threads} thr., {unit} | {' | '.join(cells)} | {spread} | {statistics.median(by_cpu):.2f} × |"
    )


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="llama_cpp.py")
    parser.add_argument("--peer", type=Path, required=True, help="the llama-server binary")
    parser.add_argument("--model", nargs="+", default=["C0=smollm2"], metavar="ID=FILE", help="files and their ids")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="without prompts of 512 tokens")
    parser.add_argument("--speculate", choices=["off", "auto"], default="off")
    options = parser.parse_args(arguments)
    table = []
    for model, threads in itertools.product(options.model, options.threads):
        name, _, path = model.partition("=")
        file = default_model() if path == "smollm2" else Path(path)
        with ExitStack() as stack:
            environment = {"GUILDLLAMA_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
            ours = our_command(file, options.speculate)
            servers = [stack.enter_context(serve("guildllama", ours, environment))]
            peer = peer_command(options.peer, file, threads)
            servers.append(stack.enter_context(serve("llama.cpp", peer, {})))
            facts = {"model": file.stem, "threads": threads, "speculate": options.speculate, **machine()}
            for workload, results in compare(servers, options.pairs, options.quick):
                for line in lines(f"{name}.{workload}", results, facts | {"load": f"{os.getloadavg()[0]:.1f}"}):
                    emit({**line, "date": today()})
                table.append(row(f"{name}.{workload}, {file.stem}", threads, results))
    head = "| workload | ours | llama.cpp | gain by the clock | by processor time |"
    sys.stdout.write("\n".join([head, "|---|---|---|---|---|", *table, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
