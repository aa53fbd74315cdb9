"""The steps of the Dockerfile in a clean Debian root. It needs root, debootstrap, Debian's and pip's registries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fork_server import ROOT

OFFLINE = [path for path in ("/opt/pypi", "/opt/pypi-more", "/opt/wheels") if Path(path).is_dir()]


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and debootstrap")
@pytest.mark.parametrize("target", ["bot", "cpu"])
def test_the_image_is_built_and_used_as_compose_does(target: str):
    binds = [word for path in OFFLINE for word in ("--bind", path)]
    command = [sys.executable, "deploy/debian_root.py", "--target", target, *binds]
    if OFFLINE:  # then pip finds torch there, and not at PyTorch's own index
        command += ["--build-arg", "TORCH_INDEX=https://pypi.org/simple"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"target {target}: well" in done.stderr
