"""Runs a fake engine as a process that accepts the real engine's flags. SIGUSR1 makes its health checks fail."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal

from tests.fakes.engine import FakeEngine, Script


async def _serve(options: argparse.Namespace) -> None:
    engine = FakeEngine(uds=options.uds, port=options.port, model=options.model)
    words = tuple(f"word{number} " for number in range(options.words))
    engine.default = lambda request: Script(deltas=words or ("You ", "said: ", request.last), pace=options.pace)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: setattr(engine, "healthy", False))
    await asyncio.sleep(options.load_seconds)
    async with engine:
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="fake-model")
    parser.add_argument("--pace", type=float, default=float(os.environ.get("FAKE_ENGINE_PACE", "0")))
    parser.add_argument("--words", type=int, default=0, help="of each reply (default: what was said)")
    parser.add_argument("--load-seconds", type=float, default=float(os.environ.get("FAKE_ENGINE_LOAD", "0")))
    options, _ = parser.parse_known_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options))


if __name__ == "__main__":
    main()
