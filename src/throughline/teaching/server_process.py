"""A server of someone else's making as a child process: started from a command template, waited for, ended whole.

Free of torch. Between the server and us stands a minder, `python -m throughline.teaching.server_process`: it holds the
server in a process group of its own and ends the group when our end of a pipe closes, so that a SIGKILL of ours leaves
no server behind. Served rounds of self-labelling call `running_server`.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from throughline.core.errors import ThroughlineError

HOST = "127.0.0.1"
READY_AT = ("/health", "/v1/models")
"""vLLM, SGLang and `transformers serve` have both; one that answers 200 is enough."""
_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_LOOK = 0.2  # seconds between two looks
_SHOWN_LINES, _SHOWN = 6, 600


@dataclass(frozen=True)
class ServeCommand:
    """A command line with `{checkpoint}`, `{port}` and perhaps `{name}` in it."""

    template: str

    def filled(self, checkpoint: Path, port: int, name: str) -> list[str]:
        """The words of the command. Other braces stay, since options may be JSON."""
        values = {"{checkpoint}": str(checkpoint), "{port}": str(port), "{name}": name}
        places = re.compile("|".join(map(re.escape, values)))
        return [places.sub(lambda place: values[place[0]], word) for word in shlex.split(self.template)]

    def served_name(self, checkpoint: Path, name: str) -> str:
        """What the server calls the model: the name it is given, else, as all of them do, the checkpoint's path."""
        return name if "{name}" in self.template else str(checkpoint)

    def require_program(self) -> None:
        """ThroughlineError when there is no such program on this machine."""
        program = shlex.split(self.template)[0]
        if shutil.which(program) is None:
            raise ThroughlineError("no such program to serve with", program, "install it, or name its path")


class RunningServer:
    """A server that answers, as `running_server` gives it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self._process, self.port, self.log = process, port, log

    @property
    def url(self) -> str:
        """The base URL for clients, with `/v1`."""
        return f"http://{HOST}:{self.port}/v1"

    def require_alive(self) -> None:
        """ThroughlineError with its last words when the server has ended."""
        code = self._process.poll()
        if code is not None:
            raise ThroughlineError(f"the server has ended (exit code {code}): {last_lines(self.log)}", self.log)

    def ready(self) -> bool:
        """Whether it answers."""
        import httpx2  # the minder does without

        for path in READY_AT:
            with contextlib.suppress(httpx2.HTTPError):
                response = httpx2.get(f"http://{HOST}:{self.port}{path}", timeout=5, trust_env=False)
                if response.status_code == httpx2.codes.OK:
                    return True
        return False

    def stop(self) -> None:
        """Ends it and all that it has started."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE + 5)
        except subprocess.TimeoutExpired:  # the minder itself is stuck
            self._process.kill()
            self._process.wait()
        _signal_group(self._process.pid, "SIGKILL")  # what a server that crashed has left behind


@contextlib.contextmanager
def running_server(
    command: ServeCommand, checkpoint: Path, name: str, log: Path, start_seconds: float
) -> Iterator[RunningServer]:
    """The command at work on a free loopback port, once it answers; what it prints goes to `log`, which stays.

    ThroughlineError, with its last lines, when it ends or does not answer within `start_seconds`.
    """
    command.require_program()
    port = free_port()
    minder = [sys.executable, "-m", __name__, *command.filled(checkpoint, port, name)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            minder, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    server, deadline = RunningServer(process, port, log), time.monotonic() + start_seconds
    try:
        while not server.ready():
            server.require_alive()
            if time.monotonic() > deadline:
                what = f"the server does not answer after {start_seconds:g} s: {last_lines(log)}"
                raise ThroughlineError(what, log)
            time.sleep(_LOOK)
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def last_lines(log: Path) -> str:
    """The end of a log, as one short text."""
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    words = " | ".join([line.strip() for line in lines if line.strip()][-_SHOWN_LINES:])
    return words[-_SHOWN:] or "it printed nothing"


# the minder -----------------------------------------------------------------------------------------------------


def main(command: Sequence[str]) -> int:
    """Runs the command until it ends, or until standard input does: then the whole process group is ended."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", flush=True)
        return 127
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # after the start: an ignored signal is inherited
    ending = threading.Event()
    minding = threading.Thread(target=_end_with_input, args=(process, ending), daemon=True)
    minding.start()
    code = process.wait()
    if ending.is_set():
        minding.join()
    return code


def _end_with_input(process: subprocess.Popen[bytes], ending: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    ending.set()
    if not _signal_group(os.getpid(), "SIGTERM"):
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    if not _signal_group(os.getpid(), "SIGKILL"):  # ends the minder as well
        process.kill()


def _signal_group(pid: int, name: str) -> bool:
    """Sends a signal to the process group that `pid` leads; False where there are none, as on Windows."""
    if sys.platform == "win32":
        return False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, getattr(signal, name))
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
