"""The chat server as a process of its own, so that it shares no interpreter with the client under test."""

import asyncio
import contextlib
import http.client
import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from tests.chat_server.server import ChatServer
from tests.chat_server.settings import ServerSettings


@dataclass(frozen=True)
class RunningServer:
    """A server in a process of its own, as `running_server` gives it."""

    process: SpawnProcess
    pipe: Connection
    host: str
    port: int

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

    def stop(self) -> int | None:
        """Ends the process, whose exit code comes back; stopping twice does nothing."""
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


@contextlib.contextmanager
def running_server(settings: ServerSettings) -> Iterator[RunningServer]:
    """Starts the server in a process of its own and stops it in the end; it also leaves when this process dies."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(settings, theirs), daemon=True)
    process.start()
    theirs.close()
    server = RunningServer(process, ours, settings.host, ours.recv())
    try:
        yield server
    finally:
        server.stop()


def _serve(settings: ServerSettings, pipe: Connection) -> None:
    """Tells its port through the pipe and serves until the other end of the pipe is closed."""

    async def serve() -> None:
        stopped = asyncio.Event()
        async with ChatServer(settings) as server:
            pipe.send(server.port)
            asyncio.get_running_loop().add_reader(pipe.fileno(), stopped.set)
            await stopped.wait()

    asyncio.run(serve())
