import argparse
import errno
import importlib
import json
import resource
import signal
import statistics
import subprocess
import sys
from types import ModuleType

import pytest
from safetensors import SafetensorError

from throughline import __version__
from throughline.cli import main as roof
from throughline.cli.main import VERBS, main
from throughline.cli.parser import Parser
from throughline.core.errors import ThroughlineError


def run_python(code: str, *arguments: str, **settings) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **settings)


START = "import sys; from throughline.cli.main import main; code = main(sys.argv[1:]); "


@pytest.fixture
def verb(monkeypatch):
    """Puts a verb `doctor` in place whose `run` is the function given."""

    def install(run) -> None:
        module = ModuleType("throughline.cli.doctor")
        vars(module).update(
            add_arguments=lambda parser: parser.add_argument("--size", type=int, default=64, help="pixels"),
            run=run,
        )
        monkeypatch.setitem(sys.modules, "throughline.cli.doctor", module)

    return install


def raiser(error: BaseException):
    def run(arguments):
        raise error

    return run


def test_help_lists_every_verb_and_loads_nothing_heavy():
    heavy = ["torch", "transformers", "numpy", "PIL", "pydantic", "sklearn", "rich", "yaml"]
    code = START + f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    ended = run_python(code, "--help")
    assert ended.stderr.strip() == "[]"
    for name, summary in VERBS.items():
        assert f"  {name}" in ended.stdout and summary in ended.stdout


def test_help_takes_less_than_four_tenths_of_a_second():
    def seconds() -> float:
        """Processor time, which other work on the machine does not lengthen."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "throughline.cli.main", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert statistics.median(seconds() for _ in range(7)) <= 0.4


def test_every_verb_that_is_there_has_options_and_help():
    for name, summary in VERBS.items():
        try:
            module = importlib.import_module(f"throughline.cli.{name}")
        except ModuleNotFoundError as missing:
            assert missing.name == f"throughline.cli.{name}"
            continue
        assert callable(module.add_arguments) and callable(module.run)
        parser = Parser(prog=name, description=summary)
        module.add_arguments(parser)
        assert parser.format_help()


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"throughline {__version__}\n"


def test_no_verb_at_all_is_wrong_usage(capsys):
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["dta"], "did you mean data?"),
        (["--verzion"], "did you mean --version?"),
        (["data", "chekc"], "did you mean check?"),
        (["data", "split", "X", "--target", "a", "--trial-seed", "0", "--jsn"], "did you mean --json?"),
        (["data", "draw", "X", "--perclass=3"], "did you mean --per-class?"),
        (["data", "digits", "X", "--shift", "rotate"], "did you mean rotation?"),
        (["data", "split", "X", "--trial-seed", "0"], "--target"),
    ],
)
def test_a_misspelt_word_is_wrong_usage_and_the_nearest_is_named(capsys, arguments, hint):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("throughline: error: ") and printed.err.count("\n") == 1
    assert hint in printed.err


def test_an_abbreviated_option_is_not_taken(capsys):
    assert main(["data", "check", "X", "--js"]) == 2
    assert "did you mean --json?" in capsys.readouterr().err


def test_a_verbs_exit_code_and_options_pass_through(capsys, verb):
    verb(lambda arguments: print(arguments.size) or 7)
    assert main(["doctor", "--size", "5"]) == 7
    assert capsys.readouterr().out == "5\n"


def test_a_fault_of_the_user_is_one_line_without_traceback(capsys, verb):
    verb(raiser(ThroughlineError("no\nsuch folder", "/x", "make it")))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "throughline: error: no such folder [/x]: make it\n"


def test_an_interrupt_says_that_the_same_command_continues(capsys, verb):
    verb(raiser(KeyboardInterrupt()))
    assert main(["doctor"]) == 3
    assert capsys.readouterr().err == "throughline: error: interrupted: the same command continues\n"


@pytest.mark.parametrize(("name", "ignored"), [("SIGINT", "None"), ("SIGTERM", "None"), ("SIGTERM", "signal.SIGINT")])
def test_a_signal_ends_any_verb_with_exit_code_3_and_further_ones_with_no_traceback(name, ignored):
    code = f"""
import atexit, os, signal, sys, time, types
from throughline.cli.main import main
def interrupt(*_):
    os.kill(os.getpid(), signal.{name})
    time.sleep(5)
signal.signal({ignored} or signal.SIGUSR1, signal.SIG_IGN)
sys.modules["throughline.cli.doctor"] = types.SimpleNamespace(add_arguments=lambda parser: None, run=interrupt)
atexit.register(interrupt)
sys.argv = ["throughline", "doctor"]
sys.exit(main())
"""
    ended = run_python(code, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert ended.returncode == 3
    assert ended.stderr == "throughline: error: interrupted: the same command continues\n"


def test_a_bug_keeps_its_traceback(verb):
    verb(raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])
    verb(raiser(FileNotFoundError(errno.ENOENT, "gone", "/x")))
    with pytest.raises(FileNotFoundError):
        main(["doctor"])


def test_a_full_disk_anywhere_is_one_line(capsys, verb, monkeypatch):
    monkeypatch.setattr(roof, "_silence", lambda stream: None)  # the captured stream has no descriptor to spare
    verb(raiser(OSError(errno.ENOSPC, "No space left on device", "/out/adapter")))
    assert main(["doctor"]) == 1
    line = "throughline: error: cannot write: No space left on device [/out/adapter]: free disk space\n"
    assert capsys.readouterr().err == line
    verb(raiser(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")))
    assert main(["doctor"]) == 1
    line = "throughline: error: cannot write: No space left on device: free disk space\n"
    assert capsys.readouterr().err == line


def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_1():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(
            [sys.executable, "-m", "throughline.cli.main", "data", "fetch", "pacs"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == (
        "throughline: error: cannot write: No space left on device [standard output]: free disk space\n"
    )


def test_a_reader_that_closes_the_pipe_gets_no_traceback():
    command = f'{sys.executable} -m throughline.cli.main --help | true; echo "${{PIPESTATUS[0]}}"'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout.strip(), ended.stderr) == ("0", "")


def test_letters_that_the_terminal_lacks_do_not_stop_a_verb(tmp_path):
    code = "import sys; from throughline.cli.main import main; sys.exit(main(['data', 'check', sys.argv[1]]))"
    env = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    ended = run_python(code, str(tmp_path / "nö folder"), env=env)
    assert ended.returncode == 1
    assert "no such folder" in ended.stderr


def test_every_option_of_data_shows_a_default_or_that_it_is_required():
    data = importlib.import_module("throughline.cli.data")
    parser = Parser(prog="throughline data")
    data.add_arguments(parser)
    [commands] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    assert set(commands.choices) == {"draw", "check", "split", "digits", "import", "sample", "corrupt", "fetch"}
    for command in commands.choices.values():
        options = [a for a in command._actions if a.nargs != 0 and (a.option_strings or "default:" in (a.help or ""))]
        text = command.format_help()
        assert text.count("default:") + text.count("(required)") == len(options), command.prog


def test_the_module_runs_as_a_script():
    command = [sys.executable, "-m", "throughline.cli.main", "data", "fetch", "vlcs"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0 and "VOC2007" in ended.stdout
    assert json.dumps(ended.stderr) == '""'
