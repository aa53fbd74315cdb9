"""The compiled code for the tests that need it; they are skipped where this machine cannot have it."""

import ctypes

import pytest

from engine.runner.cpu.build import library, missing


def code() -> ctypes.CDLL:
    found = library()
    if found is None:
        lack = missing()
        assert lack is not None, "the machine has everything, and there is no code"
        pytest.skip(lack)
    return found
