"""The blocks of docs/reference.md, made from the code itself: verbs from their argparse parsers, config keys from the
pydantic models, outcomes and exit codes from their classes. `documents.py` puts them into the page with all other
blocks; tests/test_documents.py compares, and tests/test_manual.py holds the run folder's table to a real run folder.
"""

import argparse
import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from throughline.analysis.document import FILE as ANALYSIS
from throughline.baselines.settings import BaselineSettings
from throughline.chains import outcomes
from throughline.chains.formats import FORMATS
from throughline.chains.outcomes import Outcome
from throughline.chains.rules import RULES
from throughline.cli.main import VERBS
from throughline.cli.parser import Parser
from throughline.core.errors import Interrupted, ThroughlineError, UsageError
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import preset_summaries
from throughline.runs.folder import COST, DONE, LOCK, PIXELS, REFERENCES, STAGE, STALE, UNITS, WORKERS_LOCK
from throughline.training.methods import CLASSIFIERS, MEASURES, METHODS, Method

Row = tuple[str, ...]


def _table(columns: Row, rows: Iterable[Row]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows)])


def _cell(text: str) -> str:
    """One line, with what would end the cell or open a tag made harmless; code spans are taken as they are."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    plain = (piece if piece.startswith("`") else re.sub(r"([<*_])", r"\\\1", piece) for piece in pieces)
    return "".join(plain).replace("|", r"\|")


def _code(text: str) -> str:
    return f"`{text}`"


# verbs --------------------------------------------------------------------------------------------------------------


def parser_of(verb: str) -> Parser:
    """The parser as `throughline VERB` builds it."""
    module = importlib.import_module(f"throughline.cli.{verb}")
    parser = Parser(prog=f"throughline {verb}", description=VERBS[verb])
    module.add_arguments(parser)
    return parser


def verbs(_root: Path) -> str:
    """Every verb and subcommand with its arguments and options, in the words of --help."""
    return "\n\n".join(text for verb in VERBS for text in _described(parser_of(verb), verb, 3))


def _described(parser: argparse.ArgumentParser, name: str, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    yield _sentence((parser.description or "").replace("%%", "%"))
    # argparse has no public list of an option's group.
    for group in parser._action_groups:
        rows = [_argument(parser, action) for action in group._group_actions if _shown(action)]
        title = group.title or ""
        if rows and title not in {"positional arguments", "options"}:
            yield f"{title[:1].upper()}{title[1:]}:"
        if rows:
            yield _table(("argument" if title == "positional arguments" else "option", "what it is"), rows)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from _described(below, f"{name} {word}", level + 1)


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return f"{line[:1].upper()}{line[1:]}{'' if line.endswith('.') else '.'}"


def _shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(
        action, argparse._HelpAction | argparse._SubParsersAction
    )


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> Row:
    formatter = parser._get_formatter()
    return _code(_signature(action)), formatter._expand_help(action) if action.help else ""


def _signature(action: argparse.Action) -> str:
    """`--set KEY=VALUE`, `IMAGE|FOLDER …`: how it is typed."""
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    if action.metavar is not None:
        value = str(action.metavar)
    elif action.choices is not None:
        value = "|".join(map(str, action.choices))
    else:
        value = action.dest.upper()
    value = {"+": f"{value} …", "*": f"[{value} …]", "?": f"[{value}]"}.get(str(action.nargs), value)
    return f"{names} {value}".strip()


# config -------------------------------------------------------------------------------------------------------------


def config(_root: Path) -> str:
    """Every key of a config, group by group, in the words of its docstring."""
    return "\n\n".join(_groups(RunConfig, ""))


def _groups(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield f"### {_code(prefix.rstrip('.')) if prefix else 'The top level'}"
    yield _sentence(inspect.getdoc(model) or "")
    rows, below = [], []
    for name, field in model.model_fields.items():
        inner = group_behind(field)
        if inner is not None:
            below.append((inner, f"{prefix}{name}."))
        rows.append((_code(f"{prefix}{name}"), _type(field), _default(field, inner), field.description or ""))
    yield _table(("key", "type", "default", "what it is"), rows)
    for inner, path in below:
        yield from _groups(inner, path)


def group_behind(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a group of keys, also where it may be null."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(bound, attribute)}"
        for bound in field.metadata
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(bound, attribute, None) is not None
    ]
    return ", ".join([_type_name(field.annotation), *bounds])


def _type_name(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, UnionType):
        known = [kind for kind in inner if kind is not NoneType]
        return " or ".join([*map(_type_name, known), *(["null"] if len(known) < len(inner) else [])])
    if origin is tuple:
        return f"list of {_type_name(inner[0])}".replace("number", "numbers")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    names: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true, false", dict: "mapping"}
    return names[origin or annotation]


def _default(field: FieldInfo, group: type[BaseModel] | None) -> str:
    if field.default_factory is not None:
        return "empty" if field.default_factory is dict else "as described"
    if field.default is PydanticUndefined:
        return "required"
    if group is not None:
        return "none" if field.default is None else "its keys' own"
    return _code(_yaml(field.default))


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '"*"' if value == "*" else str(value)


# the rest -----------------------------------------------------------------------------------------------------------


def presets(_root: Path) -> str:
    """The configs that ship with the package."""
    return _table(("preset", "what it is"), ((_code(name), summary) for name, summary in preset_summaries().items()))


def _learnt(method: Method) -> str:
    """What a method trains on: paths of an example, or pairs of sides, its own or given ones."""
    if method.prefers:
        return "pairs" if method.needs_pairs else "pairs of own chains"
    return " + ".join(method.paths) or "nothing"


def methods(_root: Path) -> str:
    """The methods, as the plan of units reads them."""
    rows = (
        (
            _code(method.name),
            _learnt(method),
            "yes" if method.self_labelled else "no",
            _code(method.starts_from) if method.starts_from else "the checkpoint",
            _code(method.steps_like) if method.steps_like else "its own epochs" if method.trains else "none",
        )
        for method in (METHODS | MEASURES).values()
    )
    features = (
        (
            _code(name),
            "label" if method.trains else "nothing",
            "no",
            "the checkpoint" if method.on_clip else "the backbone",
            _code("baselines.steps") if BaselineSettings().of(name).steps and method.trains else "none",
        )
        for name, method in CLASSIFIERS.items()
    )
    return _table(("method", "trains on", "rounds", "starts from", "steps of"), (*rows, *features))


def vocabulary(_root: Path) -> str:
    """The outcomes, in the words beside them in the code."""
    said = attribute_docs(outcomes, Outcome.__name__)
    return _table(("outcome", "meaning"), ((_code(one.value), said.get(one.name, "")) for one in Outcome))


def attribute_docs(module: Any, name: str) -> dict[str, str]:
    """The string that stands under each assignment of a class; `ok` and its like have none."""
    body = next(
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ).body
    found = {}
    for statement, after in pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                found[target.id] = str(after.value.value)
    return found


def rules(_root: Path) -> str:
    """Verdict rules and chain formats."""
    checks = (
        (
            _code(name),
            "yes",
            "yes" if rule.needs_conclusion else "no",
            "yes" if rule.needs_label else "no",
        )
        for name, rule in RULES.items()
    )
    formats = (
        (
            _code(format.name),
            ", ".join(format.stages),
            f"{format.answer_stage}{', untagged, at the end' if format.answer_is_tail else ''}",
        )
        for format in FORMATS.values()
    )
    return "\n\n".join(
        (
            _table(("rule", "well-formed", "concludes in one class", "in the image's own"), checks),
            _table(("format", "stages", "the answer stands in"), formats),
        )
    )


def exit_codes(_root: Path) -> str:
    """How a command can end."""
    kinds = (ThroughlineError, UsageError, Interrupted)
    rows = ((str(kind.exit_code), re.sub(r" Exit code \d\.", "", inspect.getdoc(kind) or "")) for kind in kinds)
    return _table(("code", "meaning"), (("0", "Done."), *rows))


UNIT = f"{UNITS}/<unit>"
TRAINED = "for a method that trains"
RUN_FOLDER: tuple[tuple[str, str], ...] = (
    ("config.yaml", "the resolved config, every key written out"),
    ("environment.json", "versions, hardware, commit"),
    (
        "manifest.csv",
        "the images asked about and their hashes, before any unit starts; a further set has manifest-2.csv",
    ),
    ("images/…", "the drawn world, where `data.drawn` asks for one"),
    ("chains/accepted.jsonl", "the chains that the first stages train on: sample id and text"),
    ("chains/journal-0.jsonl", "what `chains.teacher` answered, where the run asks one itself"),
    (f"{UNIT}/unit.json", "what this unit is: method, targets, seed, and every input of its hash"),
    (f"{UNIT}/adapter/…", f"the LoRA adapter as PEFT writes it, {TRAINED}"),
    (f"{UNIT}/weights.safetensors", "the classifier of a feature-level method"),
    (f"{UNIT}/{STAGE}", f"optimiser steps, {TRAINED}"),
    (f"{UNIT}/training.jsonl", f"losses by optimiser step, {TRAINED}"),
    (
        f"{UNIT}/validation.jsonl",
        "accuracy on the source domains' `out` parts, with `evaluation.selection: validation` or a `search`; for two "
        "held-out domains on their `in` parts",
    ),
    (f"{UNIT}/rounds.jsonl", "one line a round: sampled, accepted, outcomes"),
    (f"{UNIT}/round-<r>/journal-0.jsonl", "the chains that the model drew in round r, and their verdicts"),
    (f"{UNIT}/round-<r>/accepted.jsonl", "those that the round trains on"),
    (f"{UNIT}/round-<r>/…", "the round's adapter, steps, losses, predictions and results"),
    (f"{UNIT}/predictions.jsonl", "one line for each held-out image and answer path"),
    (f"{UNIT}/metrics.json", "the unit's results lines"),
    (f"{UNIT}/{COST}", "seconds of the unit's execution; for a model behind an endpoint, US dollars"),
    (f"{UNIT}/{DONE}", "written last: the hash of all inputs"),
    (f"{UNITS}/{STALE}/…", "units set aside by `--redo stale`"),
    ("results.jsonl", "all units' results lines, sorted; derived, never edited"),
    ("report/…", "the page, `index.html`, one self-contained file; and what is written beside it"),
    (ANALYSIS, "what `throughline analyze` measured"),
    ("analysis/…", "its measurements by image, so that a second call goes on"),
    (f"{PIXELS}/…", "preprocessed images, gone when the run is finished"),
    (f"{REFERENCES}/…", "reference scores of preferences, computed once"),
    ("interference/…", "images and chains that `throughline drift robustness` made"),
    (LOCK, "held by the process that is at work here"),
    (WORKERS_LOCK, "held by its workers"),
)


def run_folder(_root: Path) -> str:
    """What lies in a run folder."""
    return _table(("file", "what it holds"), ((_code(name), said) for name, said in RUN_FOLDER))


def described_in_run_folder(path: str) -> bool:
    """Whether the table has a line for a file, its path relative to the run folder and with slashes."""
    patterns = (name.replace("<unit>", "*").replace("<r>", "*").replace("…", "*") for name, _ in RUN_FOLDER)
    return any(fnmatchcase(path, pattern) for pattern in patterns)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "reference-verbs": verbs,
    "reference-config": config,
    "reference-presets": presets,
    "reference-methods": methods,
    "reference-outcomes": vocabulary,
    "reference-rules": rules,
    "reference-exit-codes": exit_codes,
    "reference-run-folder": run_folder,
}
