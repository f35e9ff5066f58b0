"""The chat server as a process of its own: the command that serves, and the handle of whoever started it.

`throughline bench teacher` and the tests that kill a build call `running_server`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from throughline.benchmarks.chat_server.server import ChatServer
from throughline.benchmarks.chat_server.settings import ServerSettings
from throughline.core.errors import ThroughlineError

_MODULE = "throughline.benchmarks.chat_server"
_SETTINGS = TypeAdapter(ServerSettings)


class RunningServer:
    """A server in a process of its own, as `running_server` gives it."""

    def __init__(self, process: subprocess.Popen[str], host: str, port: int) -> None:
        self.process, self.host, self.port = process, host, port

    @property
    def url(self) -> str:
        """The base URL for clients, with `/v1`."""
        return f"http://{self.host}:{self.port}/v1"

    def stats(self) -> dict[str, int]:
        """The counters of `ChatServer.stats`."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)  # minds no proxy of the environment
        with contextlib.closing(connection):
            connection.request("GET", "/stats")
            stats: dict[str, int] = json.load(connection.getresponse())
            return stats

    def stop(self) -> int:
        """Ends the process, whose exit code comes back; stopping twice does nothing."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextlib.contextmanager
def running_server(settings: ServerSettings) -> Iterator[RunningServer]:
    """Starts the server in a process of its own and stops it in the end; it also leaves when this process dies.

    ThroughlineError with what it said when it does not start.
    """
    with tempfile.TemporaryDirectory() as name, (Path(name) / "said").open("w+", encoding="utf-8") as said:
        path = Path(name) / "settings.json"
        path.write_bytes(_SETTINGS.dump_json(settings))
        with subprocess.Popen(
            [sys.executable, "-m", _MODULE, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            encoding="utf-8",
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                process.wait()
                said.seek(0)
                raise ThroughlineError("the chat server did not start", said.read().strip()[-500:] or None)
            server = RunningServer(process, settings.host, json.loads(line)["port"])
            try:
                yield server
            finally:
                server.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until standard input ends or Ctrl-C; prints one line of JSON with the port before."""
    parser = argparse.ArgumentParser(prog=f"python -m {_MODULE}", description=main.__doc__)
    parser.add_argument("settings", type=Path, nargs="?", help="JSON: the fields of ServerSettings that are to differ")
    path = parser.parse_args(arguments).settings
    try:
        asyncio.run(_serve(ServerSettings() if path is None else _read_settings(path)))
    except ThroughlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


def _read_settings(path: Path) -> ServerSettings:
    try:
        return _SETTINGS.validate_json(path.read_bytes())
    except OSError as error:
        raise ThroughlineError(f"cannot read the settings: {error.strerror}", path, "name an existing file") from error
    except ValidationError as error:
        fault = error.errors()[0]
        what = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
        raise ThroughlineError(f"the settings cannot be used: {what}", path, "mend the file") from error


async def _serve(settings: ServerSettings) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    async with ChatServer(settings) as server:
        threading.Thread(target=_wait_for_input_to_end, args=(loop, stopped), daemon=True).start()
        print(json.dumps({"port": server.port, "url": server.url}), flush=True)
        await stopped.wait()


def _wait_for_input_to_end(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    # in a thread, as not every standard input can be waited for in a loop; unbuffered, as a reader that holds a
    # buffer's lock would keep the interpreter from leaving
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
        loop.call_soon_threadsafe(stopped.set)
