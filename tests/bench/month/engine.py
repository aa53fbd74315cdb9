"""The fake engine as a process: an answer that names its question, in a few pieces; notes where the bot asks for them.

python -m tests.bench.month.engine PORT PACE
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.discord.harness import ROOT, free_port
from tests.fakes.engine import FakeEngine, Request, Script
from tests.fakes.engine.notes import is_notes, note_taker

FILLER = "a coat for the rain, a map that does not tear, and somebody to share the view with; "
NUM_PIECES = 4
END = "that is all."
QUESTION = re.compile(r"\bq\d+\b")


def answer_to(question: str) -> str:
    """How the answer to a question begins; its end is END."""
    return f"Answer to {question}:"


async def serve(port: int, pace: float) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with FakeEngine(port=port) as engine:

        def script(request: Request) -> Script:
            del engine.requests[:-100]  # a month of them is not kept
            del engine.calls[:-100]
            if is_notes(request):
                return note_taker(request)
            found = QUESTION.findall(request.last)
            begin = f"{answer_to(found[-1] if found else 'nothing')} "
            return Script(deltas=(begin, *[FILLER] * NUM_PIECES, END), pace=pace)

        engine.default = script
        await stop.wait()


@asynccontextmanager
async def engine_process(pace: float) -> AsyncIterator[tuple[str, int]]:
    """Its URL and its process id."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.month.engine", str(port), str(pace), cwd=ROOT
    )
    try:
        await _listens(port)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.terminate()
        await process.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
