"""Creates the GPU's context, which takes 0.3 to 0.5 s, while torch is imported: ctypes releases the GIL meanwhile.

torch uses the same context, the device's primary one (CUDA Driver API, "Primary Context Management"). It finds out by
itself, and reports, what is missing; so a driver that is not there or fails is no error here. Imports no torch.
"""

import ctypes
import importlib.util
import os
import threading
from typing import Final

DRIVER: Final = "libcuda.so.1"


def create_in_background(device: str) -> threading.Thread | None:
    """Begin with it, for this rank's GPU as `engine.config.resolve` chooses it; None where no GPU will be used."""
    if device == "cpu" or importlib.util.find_spec("triton") is None:  # without Triton there is no runner for a GPU
        return None
    rank = os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))
    if not rank.isdecimal():
        return None
    thread = threading.Thread(target=_create, args=(int(rank),), name="gpu context", daemon=True)
    thread.start()
    return thread


def _create(local_rank: int) -> None:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return
    count, gpu, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return
    if not driver.cuDeviceGet(ctypes.byref(gpu), local_rank % count.value):
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), gpu)  # until the process ends
