"""`throughline drift graph`: a concept graph is checked, shown and drawn, or made out of a chain store by a teacher."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from throughline.cli.chains.build import open_endpoints
from throughline.cli.chains.build_report import build_progress
from throughline.cli.chains.options import Connection, Params, with_params
from throughline.cli.options import Shown, add_settings
from throughline.core.errors import UsageError
from throughline.core.files import write_atomically
from throughline.core.settings import Settings

if TYPE_CHECKING:
    from throughline.chains.concepts import ConceptGraph
    from throughline.drift.teacher import TextTeacher

DRAWN = "drawn"
DEFAULT_PARAMS: dict[str, Any] = {"temperature": 0, "max_tokens": 2048}


class Asked(Settings):
    """Who is asked about chains, and where the answers go."""

    teacher: Annotated[tuple[str, ...], Shown("URL", several="+")] = ()
    """Base URLs of OpenAI-compatible endpoints with the same model."""
    teacher_model: str | None = None
    """Name of the model at the endpoint; needed with --teacher."""
    answers: Annotated[Path | None, Shown("STORE")] = None
    """Folder in which every answer of the teacher is recorded, so that the same command resumes and repeats no request
    (default: beside --out, with the ending .answers)."""
    param: Params = ()
    """A parameter of the request; null leaves the parameter out (default: temperature=0, max_tokens=2048)."""


class Graph(Settings):
    """Check a concept graph, show what decides between its classes, and draw it; or make one out of the accepted chains
    of a store, by a teacher that lists the relations that each chain states."""

    source: Annotated[str, Shown("GRAPH", positional=True)]
    """A graph file (YAML or CSV), a chain store (with --teacher), or `drawn` for the exact graph of drawn images."""
    out: Annotated[Path | None, Shown("FILE")] = None
    """Also write the graph: as YAML; that of a store as CSV, with the number of chains behind each edge."""
    figure: Annotated[Path | None, Shown("FILE.svg")] = None
    """Also draw it as classes by attributes: required ones filled, excluded ones crossed."""
    least: int = Field(default=2, ge=1)
    """Number of chains that have to state an edge; other edges are left 0."""
    agreement: float = Field(default=0.8, gt=0.5, le=1)
    """Share of the chains about an edge that have to agree on it; other edges are left 0."""


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, and how requests are sent; `text_teacher` reads them."""
    group = parser.add_argument_group("a teacher behind an endpoint")
    add_settings(group, Asked)
    add_settings(group, Connection)


@contextmanager
def text_teacher(arguments: argparse.Namespace) -> Iterator[TextTeacher]:
    """The teacher that the options name, until its connections are let go. UsageError without a model's name."""
    from throughline.drift.teacher import TextTeacher
    from throughline.teaching.teachers import Brief

    if not arguments.teacher_model:
        raise UsageError("no model is given", do="add --teacher-model NAME, as the endpoint calls it")
    # no image is sent; the key of a teacher's requests names the side of one all the same
    params = with_params({**DEFAULT_PARAMS, "image_side": 1}, arguments.param)
    store = arguments.answers or arguments.out.with_name(f"{arguments.out.name}.answers")
    endpoints = open_endpoints(arguments, arguments.teacher, arguments.key_env)
    brief = Brief("endpoint", arguments.teacher_model, "", params)
    with asyncio.Runner() as runner, build_progress([endpoints]) as report_progress:
        try:
            yield TextTeacher(brief, endpoints, store, runner, report_progress)
        finally:
            runner.run(endpoints.close())


def run_graph(arguments: argparse.Namespace) -> int:
    """Reads or makes the graph; prints, writes and draws it."""
    from throughline.chains.graph_files import read_graph, write_graph
    from throughline.drawn.concepts import GRAPH
    from throughline.drift.graph_picture import graph_plot, graph_table
    from throughline.reporting.text import to_terminal

    source = Path(arguments.source)
    if arguments.teacher:
        graph = _extracted(arguments, source)
    elif source.is_dir():
        raise UsageError("a graph is made out of a store by a teacher", source, "add --teacher URL and --teacher-model")
    else:
        graph = GRAPH if arguments.source == DRAWN else read_graph(source)
        if arguments.out is not None:
            write_graph(arguments.out, graph)
    print(to_terminal(graph_table(graph)), end="")
    if arguments.figure is not None:
        from throughline.reporting.drawing import svg_of

        write_atomically(arguments.figure, svg_of(graph_plot(graph)))
    return 0


def _extracted(arguments: argparse.Namespace, source: Path) -> ConceptGraph:
    """The graph of a store, written as a table; prints what became of answers and edges."""
    from throughline.chains.graph_files import read_graph
    from throughline.chains.journal import require_journals
    from throughline.chains.store import read_store
    from throughline.drift.extraction import accepted_texts, gather_evidence, weigh_evidence

    out: Path | None = arguments.out
    if out is None or out.suffix.lower() != ".csv":
        raise UsageError("the graph of a store is a CSV table", out or source, "name it with --out FILE.csv")
    store = read_store(require_journals(source))
    texts = accepted_texts(store)
    classes = sorted({name for _, header in store.headers for name in header.classes})
    with text_teacher(arguments) as teacher:
        evidence = gather_evidence(texts, classes, teacher)
    edges = weigh_evidence(evidence.relations, arguments.least, arguments.agreement)
    write_atomically(out, edges.drop(columns="outcome").to_csv(index=False, lineterminator="\n"))
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in edges.groupby("outcome").size().items())
    print(f"{evidence.read:,} of {len(texts):,} answers read; edges: {outcomes}; {out}")
    strangers = evidence.of_unknown_classes["class"]
    notes = {
        "answers are no list of relations": evidence.unread,
        "requests failed; the same command asks again": len(texts) - evidence.read - evidence.unread,
        f"relations are of unknown classes ({', '.join(sorted(strangers.unique())[:5])})": len(strangers),
    }
    print("".join(f"note: {count:,} {what}\n" for what, count in notes.items() if count), end="")
    return read_graph(out)
