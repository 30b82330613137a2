"""No search writes beyond its buffers, on the kernels of a processor without AVX-512 either."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAP_CHECKS = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
"""The environment in which glibc aborts when a block is freed whose end was overwritten."""


def has_heap_checks() -> bool:
    try:
        ctypes.CDLL(HEAP_CHECKS["LD_PRELOAD"])
    except OSError:  # another C library, or glibc before 2.34
        return False
    return True


def run_checked(*arguments: object) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        **HEAP_CHECKS,
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin cost the other tests their cores
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


pytestmark = pytest.mark.skipif(not has_heap_checks(), reason="needs libc_malloc_debug.so.0 of glibc 2.34 or later")


def test_the_checks_notice_one_byte_beyond_a_buffer():
    overflow = (
        "import ctypes, torch; buffer = torch.empty(5001, dtype=torch.uint8); "
        "ctypes.memset(buffer.data_ptr() + 5001, 255, 1); del buffer"
    )
    assert run_checked("-c", overflow).returncode < 0


@pytest.mark.slow
def test_a_small_search_of_each_composition_leaves_the_heap_whole():
    ended = run_checked(Path(__file__).with_name("heap_checked_searches.py"))
    assert ended.stdout.splitlines()[-1:] == ["all done"], ended.stdout + ended.stderr
    assert ended.returncode == 0
