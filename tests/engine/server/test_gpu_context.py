"""The context is created for this rank's GPU, and for none where no GPU will be used. The driver is a recording one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = """
#include <stdio.h>
#include <stdlib.h>
static void note(const char *name, int value) {
    FILE *file = fopen(getenv("CALLS"), "a");
    fprintf(file, "%s %d\\n", name, value);
    fclose(file);
}
int cuInit(unsigned flags) { note("cuInit", flags); return getenv("NO_GPU") ? 100 : 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = 10 + number; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { note("retain", device); return 0; }
"""
PROGRAM = """
import sys
from engine.server.gpu_context import create_in_background
thread = create_in_background(sys.argv[1])
if thread is not None:
    thread.join()
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=True)
    return folder


def calls(driver: Path, device: str, tmp_path: Path, **environment: str) -> list[str]:
    found = tmp_path / "calls"
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK")}
    environment |= {"LD_LIBRARY_PATH": str(driver), "CALLS": str(found)}
    subprocess.run([sys.executable, "-c", PROGRAM, device], check=True, env=kept | environment, timeout=60)
    return found.read_text().splitlines() if found.exists() else []


@pytest.mark.parametrize(
    ("device", "environment", "expected"),
    [
        ("auto", {}, ["cuInit 0", "retain 10"]),
        ("cuda", {"RANK": "5", "LOCAL_RANK": "1"}, ["cuInit 0", "retain 11"]),
        ("auto", {"RANK": "3"}, ["cuInit 0", "retain 11"]),
        ("auto", {"NO_GPU": "1"}, ["cuInit 0"]),
        ("auto", {"LOCAL_RANK": "first"}, []),
        ("cpu", {}, []),
    ],
)
def test_the_context_of_this_ranks_gpu(
    driver: Path, device: str, environment: dict[str, str], expected: list[str], tmp_path: Path
) -> None:
    assert calls(driver, device, tmp_path, **environment) == expected


def test_without_a_driver_nothing_happens(tmp_path: Path) -> None:
    assert calls(tmp_path, "auto", tmp_path) == []
