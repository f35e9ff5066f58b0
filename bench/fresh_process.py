"""Measuring in a process of its own: nothing that was done before is in its memory, nothing it does stays.

`scale` and `teacher` call this, so that every size starts alike.
"""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from throughline.core.errors import ThroughlineError

Result = TypeVar("Result")


def in_a_fresh_process(measure: Callable[..., Result], *arguments: Any) -> Result:
    """What `measure(*arguments)`, a function of a module, returns there.

    Raises ThroughlineError, in one line, with what it raised there, or with how the process ended when it said nothing:
    the system kills without a word when memory runs out.
    """
    spawning = multiprocessing.get_context("spawn")
    here, there = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_send, args=(there, measure, arguments))
    process.start()
    there.close()
    try:
        result, fault = here.recv()
    except EOFError:
        result, fault = None, None
    finally:
        process.join()
    if fault is not None:
        raise fault
    if process.exitcode != 0:
        raise ThroughlineError(f"the measuring process ended with exit code {process.exitcode}", measure.__name__)
    returned: Result = result
    return returned


def peak_megabytes() -> float:
    """The most memory this process ever had. The system's own count starts, on Linux, with what the parent had."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def _send(pipe: Any, measure: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        result, fault = measure(*arguments), None
    except ThroughlineError as error:
        result, fault = None, ThroughlineError(str(error))
    except Exception as error:  # whatever it is: the parent has to know, and a second traceback says no more
        result, fault = None, ThroughlineError(f"{type(error).__name__}: {error}", measure.__name__)
    pipe.send((result, fault))
