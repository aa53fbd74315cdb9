"""Installing by pip alone, in a clean environment outside the checkout. It needs pip's registry and minutes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fork_server import ROOT


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("flags", [(), ("--python", sys.executable, "--engine")], ids=["every Python", "with engine"])
def test_the_wheel_works_in_a_clean_environment(flags: tuple[str, ...]):
    command = [sys.executable, "deploy/clean_install.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
