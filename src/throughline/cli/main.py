"""The entry `throughline <verb> …`: finds the verb's file, runs it, and turns every way it can end into
an exit code.

0 done; 1 the input is at fault (one line on stderr); 2 wrong usage; 3 interrupted (Ctrl-C, SIGTERM) and
resumable. A verb's module has `add_arguments(parser)` and `run(arguments) -> int`, and is imported only when it is
chosen, so that `throughline --help` stays light.
"""

import contextlib
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import TextIO

from throughline import __version__
from throughline.core.errors import ThroughlineError, UsageError

# Verb: one line for `throughline --help`. The module is throughline.cli.<verb>.
VERBS = {
    "demo": "run a complete experiment on drawn images, in minutes, without GPU or network",
    "doctor": "show what this machine can run, and what is missing",
    "data": "draw, check, split, import and download images by domain and class",
    "chains": "build, check, count, view and export reasoning chains: texts that reason from image to class",
    "run": "run or resume an experiment from a config: held-out domains x methods x seeds",
    "fit": "train the final model on all domains of a folder",
    "evaluate": "measure the accuracy of a model on a folder of labelled images",
    "predict": "give label, confidence and reasoning chain for images",
    "export": "write a trained model as one checkpoint, for `transformers serve` and others",
    "ood": "measure models on other domains: zero-shot, corruptions, linear probes, labelled examples in the prompt",
    "drift": "measure reasoning drift; make concept graphs, and preference pairs that differ in what decides a class",
    "report": "print the tables of a run and write its report page",
    "analyze": "examine the models of a run: token probabilities, distance between domains, effect of chains",
    "bench": "measure time and memory on this machine, compared with other tools",
}

INTERRUPTED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own, whose signals are then handled) and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # SIGTERM, which schedulers send, does what Ctrl-C does, and more where that is ignored
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        as_ctrl_c = signal.default_int_handler if deaf else lambda *_: signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGTERM, as_ctrl_c)
    try:
        code = _ended(arguments)
    except KeyboardInterrupt:
        code = None
    if argv is None:  # once more, it is not to end what is left to do in a traceback
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(INTERRUPTED if code is None else code))
    return _fail(["interrupted: the same command continues"], INTERRUPTED) if code is None else code


def _ended(arguments: list[str]) -> int:
    """Runs the verb; the exit code of every end but Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names and chains go beyond a terminal's letters
    try:
        code = run_verb(arguments)
        sys.stdout.flush()  # so that a full disk or a closed pipe shows here, not after the last line
        return code
    except ThroughlineError as error:
        return _fail(error.lines or [str(error)], error.exit_code)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        _silence(sys.stdout)
        return 0
    except Exception as error:
        from throughline.core.files import full_disk

        fault = full_disk(error, "standard output" if isinstance(error, OSError) else None)
        if fault is None:
            raise
        _silence(sys.stdout)
        return _fail([str(fault)], fault.exit_code)


def run_verb(arguments: list[str]) -> int:
    """Dispatches to a verb. Raises a UsageError, naming the nearest verb, when there is none of that name."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(describe())
        return 0 if arguments else UsageError.exit_code
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        print(f"throughline {__version__}")
        return 0
    # Only now: argparse and the modules it needs are half of the time that `throughline --help` takes.
    from throughline.cli.parser import Parser
    from throughline.core.nearest import nearest

    if name not in VERBS:
        kind = "option" if name.startswith("-") else "verb"
        near = nearest(name, ["--help", "--version"] if kind == "option" else VERBS)
        hint = f"did you mean {near}? " if near else ""
        raise UsageError(f"no {kind} named {name}", do=f"{hint}see throughline --help")
    module = importlib.import_module(f"throughline.cli.{name}")
    parser = Parser(prog=f"throughline {name}", description=VERBS[name])
    module.add_arguments(parser)
    try:
        parsed = parser.parse_args(rest)
    except SystemExit as leaving:  # after --help: argparse has printed and wants to leave
        return int(leaving.code or 0)
    code: int = module.run(parsed)
    return code


def describe() -> str:
    """The text of `throughline --help`."""
    from throughline import __doc__ as summary

    lines = [
        "usage: throughline <verb> [options]",
        "",
        (summary or "").split(". ")[0] + ".",
        "",
        "verbs:",
        *(f"  {verb:<10} {line}" for verb, line in VERBS.items()),
        "",
        "options:",
        "  -h, --help    this text; `throughline <verb> --help` shows a verb's options",
        "  --version     the version",
        "",
        "exit codes: 0 done; 1 error in the input; 2 wrong usage; 3 interrupted, the same command continues",
    ]
    return "\n".join(lines)


def _fail(lines: Sequence[str], code: int) -> int:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print("\n".join(f"throughline: error: {line}" for line in lines), file=sys.stderr, flush=True)
    return code


def _silence(stream: TextIO) -> None:
    """Points a broken stream at nothing, so that the interpreter's last flush does not complain."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


if __name__ == "__main__":
    sys.exit(main())
