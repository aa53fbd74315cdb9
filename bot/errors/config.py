"""A setting that cannot work, told to the operator in one line."""

from __future__ import annotations

EXIT_CONFIG = 78
"""The exit code of a configuration error (sysexits.h: EX_CONFIG)."""


class ConfigError(Exception):
    """A setting that cannot work. The command prints `line` and exits with code 78."""

    def __init__(self, setting: str, problem: str, fix: str) -> None:
        self.setting = setting
        self.problem = problem
        self.fix = fix
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """The setting, the problem and the fix, as one line."""
        text = " ".join(f"{self.setting}: {self.problem}".split()).rstrip(".")
        return f"{text}. {' '.join(self.fix.split())}".strip()
