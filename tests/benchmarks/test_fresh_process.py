"""What goes wrong in the measuring process is one line in the one that asked for it."""

import os

import pytest

from fresh_process import in_a_fresh_process
from throughline.core.errors import ThroughlineError


def _fails(kind: str) -> int:
    if kind == "disk":
        raise OSError(28, "No space left on device", "images/7.jpg")
    if kind == "input":
        raise ThroughlineError("no images", "here", "draw some")
    if kind == "killed":
        os._exit(9)
    return os.getpid()


def test_it_measures_in_another_process() -> None:
    assert in_a_fresh_process(_fails, "nothing") != os.getpid()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("disk", "OSError: [Errno 28] No space left on device: 'images/7.jpg' [_fails]"),
        ("input", "no images [here]: draw some"),
        ("killed", "the measuring process ended with exit code 9 [_fails]"),
    ],
)
def test_a_fault_there_is_a_fault_here(kind: str, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ThroughlineError) as caught:
        in_a_fresh_process(_fails, kind)
    assert str(caught.value) == line
    assert "Traceback" not in capfd.readouterr().err
