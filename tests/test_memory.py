"""Freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource, sys
from wyrcli.memory import keep_freed
told = keep_freed() if sys.argv[1] == "keep" else False
def work():
    for _ in range(5):
        [b"x" * (8 << 20) for _ in range(10)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[bool, int]:
    """What keep_freed said, and the pages that the system had to give for 400 MiB."""
    own = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))} | environment
    command = [sys.executable, "-c", CODE, how]
    told, number = subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout.split()
    return told == "True", int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    """What comes later gets the pages of what was before, where it got new ones; a user's settings stand."""
    _, usual = faults("leave")
    told, kept = faults("keep")
    assert told and kept < 100, (kept, usual)
    told, number = faults("keep", MALLOC_TRIM_THRESHOLD_="65536")
    assert not told and min(number, usual) > 1000, (number, usual)
