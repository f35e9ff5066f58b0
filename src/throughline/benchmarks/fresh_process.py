"""Measuring in a process of its own: nothing that was done before is in its memory, nothing it does stays.

The benches of memory call this, and those that want every size to start alike.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")


def in_a_fresh_process(measure: Callable[..., Found], *arguments: Any) -> Found:
    """What `measure(*arguments)`, a function of a module, returns there. EOFError when the process dies of it."""
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_tell, args=(there, measure, arguments))
    process.start()
    there.close()
    try:
        found: Found = here.recv()
        return found
    finally:
        process.join()


def peak_megabytes() -> float:
    """The most memory this process ever had. The system's own count starts, on Linux, with what the parent had."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _tell(pipe: Any, measure: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    pipe.send(measure(*arguments))
