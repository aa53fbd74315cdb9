"""The compiled code for the tests that need it. They are skipped on a machine that cannot have it."""

import ctypes

import pytest

from engine.runner.cpu.build import compiled_library, missing_requirement


def require_compiled_library() -> ctypes.CDLL:
    library = compiled_library()
    if library is None:
        reason = missing_requirement()
        assert reason is not None, "the machine has everything, and there is no library"
        pytest.skip(reason)
    return library
