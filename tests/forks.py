"""Processes that do not import torch once more: forks of one server that has.

A fork is a process of its own, with the environment of the moment; it can be killed, and ends with an exit code. What a
process does when it really starts anew, `python -m` and a spawned worker, stays in the tests of just that.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

FORKS: Any = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "throughline.cli.main",
        "throughline.evaluation.assessment",
        "throughline.evaluation.image_answers",
        "throughline.experiment.analyses.entry",
        "throughline.experiment.checkpoint_export",
        "throughline.experiment.executors",
        "throughline.experiment.final_model",
        "throughline.experiment.forecast",
        "throughline.reporting.page",
        "throughline.training.trainer",
        "transformers.models.internvl.modeling_internvl",
        "transformers.models.internvl.processing_internvl",
    ]
)
SERVER: Any = forkserver._forkserver  # type: ignore[attr-defined]
AT_START = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
"""What torch and the hub's library read when they are imported."""
real_context = multiprocessing.get_context


class InsteadOfSpawn:
    """What is asked of the context of `spawn`, with forks that get the environment as a new process would."""

    Pipe = staticmethod(FORKS.Pipe)
    Queue = staticmethod(FORKS.Queue)

    @staticmethod
    def Process(  # noqa: N802 (as there)
        *, target: Callable[..., Any], args: tuple[Any, ...] = (), daemon: bool = False
    ) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in AT_START.items():
                patch.setenv(name, value)
            SERVER.ensure_running()
        return FORKS.Process(target=_begin, args=(dict(os.environ), target, args), daemon=daemon)


def context(method: str | None = None) -> Any:
    """Stands in for `multiprocessing.get_context`."""
    return InsteadOfSpawn if method == "spawn" else real_context(method)


def started(function: Callable[..., Any], arguments: tuple[Any, ...], said: Path, folder: Path | None = None) -> Any:
    """A process that calls the function in `folder`; what it says goes into the file `said`."""
    process = InsteadOfSpawn.Process(target=_talk, args=(function, arguments, said, folder or Path.cwd()))
    process.start()
    return process


def typed(words: Sequence[str], said: Path, folder: Path | None = None, drawn: bool = False) -> Any:
    """A process in which `throughline WORDS` was typed; the figures of its pages are empty, unless `drawn`."""
    return started(_type, (words, drawn), said, folder)


def no_figures(folder: Path, plots: Sequence[Any]) -> dict[str, str]:
    """Stands in for `write_figures`: drawing is most of a page's time, and other tests look at what is drawn."""
    return {plot.name: "<svg></svg>" for plot in plots}


def _begin(environment: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    gc.freeze()  # what the server imported: collecting garbage need not look at it, nor copy its pages
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.get_context = context
    SERVER.ensure_running = lambda: None  # the one that made this fork makes its children, too
    target(*args)


def _talk(function: Callable[..., Any], arguments: tuple[Any, ...], said: Path, folder: Path) -> None:
    os.chdir(folder)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*arguments)


def _type(words: Sequence[str], drawn: bool = False) -> None:
    from throughline.cli.main import main
    from throughline.reporting import page

    if not drawn:
        page.write_figures = no_figures  # type: ignore[attr-defined]
    sys.argv = ["throughline", *words]
    sys.exit(main())
