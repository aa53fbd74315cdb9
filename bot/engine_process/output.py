"""The engine's output: forwarded into our log, and searched for the reason why it refuses to start."""

from __future__ import annotations

import asyncio
import re
from collections import deque

import structlog

from bot.engine_process.command import SETTING_OF_FLAG
from bot.errors import EXIT_CONFIG, ConfigError

LINE_LIMIT = 64 * 1024
"""Bytes; a longer line is dropped."""

_ENGINE_PREFIX = "engine: "
_RANK = re.compile(r"\[rank ?(\d{1,4})\]|rank (\d{1,4}): ")
"""How a line begins that names its rank: ours, and torch's own messages."""
# torchrun exits with 1 whatever its ranks exit with, and reports their exit codes in its output.
_RANK_EXIT = re.compile(rf"exitcode\s*:\s*{EXIT_CONFIG}\b")

_engine_log = structlog.get_logger("engine")


class EngineOutput:
    """The output of one run of the engine and its launcher."""

    def __init__(self) -> None:
        self.reports_bad_config = False
        """torchrun reported that a rank refused its settings."""
        self._last_lines: deque[str] = deque(maxlen=3)
        self._engine_lines: deque[str] = deque(maxlen=50)  # without the launcher's

    async def forward(self, stream: asyncio.StreamReader | None) -> None:
        """Log each line until the stream ends."""
        while stream is not None:
            try:
                raw = await stream.readline()
            except ValueError:  # longer than LINE_LIMIT
                continue
            if not raw:
                return
            if line := raw.decode(errors="replace").rstrip():
                self._take(line)

    def _take(self, line: str) -> None:
        self._last_lines.append(line)
        if line.startswith(_ENGINE_PREFIX):
            self._engine_lines.append(line.removeprefix(_ENGINE_PREFIX))
        _log_line(line)
        if _RANK_EXIT.search(line):
            self.reports_bad_config = True

    def last_lines(self) -> str:
        """The last three lines, as one."""
        return " | ".join(self._last_lines)

    def config_error(self) -> ConfigError:
        """Why the engine refused its settings, in the names of ours."""
        # Every rank finds the same mistake; the first one's line has no rank in front.
        by_first_rank = [line for line in self._engine_lines if not line.startswith("[rank")]
        candidates = by_first_rank or [*self._engine_lines] or [*self._last_lines] or ["it did not say why"]
        problem = candidates[-1]
        for flag, setting in SETTING_OF_FLAG.items():
            problem = problem.replace(flag, setting)
        return ConfigError(
            "The engine refused its settings", problem, "Check GUILDLLAMA_MODEL and the other engine settings."
        )


def _log_line(line: str) -> None:
    """Log a line with its rank as a field: the one that it names, or rank 0 for a line of the engine without one."""
    text = line.removeprefix(_ENGINE_PREFIX)
    if named := _RANK.match(text):
        _engine_log.info(text, rank=int(named[1] or named[2]))
    elif text != line:
        _engine_log.info(text, rank=0)
    else:
        _engine_log.info(text)
