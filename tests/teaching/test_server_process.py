"""A server as a child process: it answers, it is gone afterwards whatever happens to us, its faults are one line."""

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from throughline.core.errors import ThroughlineError
from throughline.teaching.server_process import ServeCommand, free_port, last_lines, running_server

SERVE = f"{sys.executable} -u -m http.server --bind 127.0.0.1 --directory {{checkpoint}} {{port}}"
"""Answers 200 at /health when the folder has a file of that name."""
SAYS = f"{sys.executable} -c '{{code}}' {{checkpoint}} {{port}}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "a checkpoint"
    folder.mkdir()
    (folder / "health").touch()
    return folder


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def gone(port: int, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while answers(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_it_answers_inside_and_is_gone_outside(checkpoint: Path, tmp_path: Path) -> None:
    with running_server(ServeCommand(SERVE), checkpoint, "name", tmp_path / "log", 60) as server:
        assert answers(server.port) and server.url == f"http://127.0.0.1:{server.port}/v1"
        server.require_alive()
    assert gone(server.port, 0)
    assert "/health" in (tmp_path / "log").read_text()


def test_it_is_gone_after_an_error_of_ours(checkpoint: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        running_server(ServeCommand(SERVE), checkpoint, "name", tmp_path / "log", 60) as server,
    ):
        raise KeyboardInterrupt
    assert gone(server.port, 0)


def test_it_is_gone_after_our_own_sudden_death(checkpoint: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from throughline.teaching.server_process import *\n"
        "with running_server(ServeCommand(sys.argv[1]), Path(sys.argv[2]), 'n', Path(sys.argv[3]), 60) as server:\n"
        "    print(server.port, flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", program, SERVE, str(checkpoint), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert answers(port)
        os.kill(process.pid, signal.SIGKILL)
    assert gone(port)


def test_what_the_server_started_is_gone_with_it(checkpoint: Path, tmp_path: Path) -> None:
    """A launcher whose child serves, and does not mind a polite end."""
    script = tmp_path / "launcher.sh"
    serving = f'{sys.executable} -m http.server --bind 127.0.0.1 --directory "$1" "$2"'
    script.write_text(f"(trap '' TERM; exec {serving}) &\nsleep 100\n")
    command = ServeCommand(f"sh {script} {{checkpoint}} {{port}}")
    with running_server(command, checkpoint, "n", tmp_path / "log", 60) as server:
        assert answers(server.port)
    assert gone(server.port, 0)


def line(code: str, checkpoint: Path, log: Path, seconds: float = 60.0) -> str:
    template = SAYS.replace("{code}", code)
    with (
        pytest.raises(ThroughlineError) as error,
        running_server(ServeCommand(template), checkpoint, "n", log, seconds),
    ):
        raise AssertionError("it cannot have started")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_server_that_ends_is_quoted(checkpoint: Path, tmp_path: Path) -> None:
    said = line('import sys; print("loading"); sys.exit("no memory left")', checkpoint, tmp_path / "log")
    assert "the server has ended (exit code 1): " in said and "no memory left" in said and str(tmp_path / "log") in said


def test_a_server_that_never_answers_is_given_up(checkpoint: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    code = 'import time; print("still loading", flush=True); time.sleep(60)'
    assert "does not answer after 1 s: still loading" in line(code, checkpoint, tmp_path / "log", 1.0)
    assert time.monotonic() - began < 30


def test_a_program_that_is_not_there_is_named(checkpoint: Path, tmp_path: Path) -> None:
    command = ServeCommand("no-such-program {checkpoint} {port}")
    with (
        pytest.raises(ThroughlineError, match=r"no such program to serve with \[no-such-program\]"),
        running_server(command, checkpoint, "n", tmp_path / "log", 1),
    ):
        pass


def test_other_braces_and_spaces_survive_the_template() -> None:
    command = ServeCommand("""vllm serve {checkpoint} --port={port} --mm-processor-kwargs '{"max_patches": 1}'""")
    filled = command.filled(Path("/a folder/x"), 81, "n")
    assert filled == ["vllm", "serve", "/a folder/x", "--port=81", "--mm-processor-kwargs", '{"max_patches": 1}']
    assert command.served_name(Path("/a folder/x"), "n") == "/a folder/x"
    assert ServeCommand("vllm serve {checkpoint} --served-model-name {name}").served_name(Path("x"), "n") == "n"


def test_only_the_end_of_a_log_is_told(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(f"line {number}\n" for number in range(100)))
    assert last_lines(tmp_path / "log") == " | ".join(f"line {number}" for number in range(94, 100))
    assert last_lines(tmp_path / "none") == "it printed nothing"
    assert free_port() > 1023
