"""Options shared by verbs: those that mirror the fields of a settings class, those of a model's base, and the types of
values on a command line.

An option is described once, by a field of a settings class: `add_settings` takes its help, type, choices and default
from there, and `given_settings` reads the values back as `{"training.stage.lr": 1e-4}`, ready to be laid over a config.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from throughline.core.settings import Settings
    from throughline.evaluation.saved_model import Base, OpenedModel

Number = TypeVar("Number", int, float)
Subcommands: TypeAlias = "Mapping[str, tuple[type[Settings], Callable[[argparse.Namespace], int]]]"
"""By name, the options of a subcommand and the function that runs it."""

MODEL_HELP = "folder made by `throughline fit`; or a checkpoint, zero-shot: `pocket`, a folder, with --hub a hub name"
SOURCE_HELP = "folder <domain>/<class>/<image>, or .csv/.parquet with columns image, domain, label[, group]"


# options that mirror settings ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """How a field stands on the command line, where its type does not say it: `Annotated[Path, Shown("FILE")]`."""

    metavar: str
    positional: bool = False


ModelName = Annotated[str, Shown("MODEL", positional=True), Field(description=MODEL_HELP)]
Source = Annotated[Path, Shown("DIR", positional=True), Field(description=SOURCE_HELP)]


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    settings: type[Settings],
    keys: Iterable[str] | None = None,
    default: str | None = None,
) -> None:
    """Adds an option for each field of `settings`, or for these keys, named by its key: `training.stage.lr` becomes
    `--lr`. A field without a default is required.

    Without `default` an option that is left out has the field's default. With it, the value is then None and help
    shows these words instead, `{}` in them standing for the field's default: "the preset's, or {}".
    """
    for key in settings.model_fields if keys is None else keys:
        field, name = _field(settings, key), _name(key)
        flag, description = f"--{name.replace('_', '-')}", _option_help(field)
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", help=description)
            continue
        kind = _kind(field)
        if field.is_required():
            if Shown(kind.get("metavar", ""), positional=True) in field.metadata:
                parser.add_argument(name, help=description, **kind)
            else:
                parser.add_argument(flag, required=True, help=description, **kind)
            continue
        value = field.get_default(call_default_factory=True)
        if "(default: " not in description:
            known = ",".join(map(str, value)) if isinstance(value, tuple) else value
            description += f" (default: {(default or '{}').format('none' if known in (None, '') else known)})"
        parser.add_argument(flag, default=value if default is None else None, help=description, **kind)


def add_subcommands(
    parser: argparse.ArgumentParser,
    commands: Subcommands,
    json_of: Collection[str],
) -> dict[str, argparse.ArgumentParser]:
    """A subcommand for each row: its options, whose docstring describes it, and the function that `arguments.act` is.
    Those of `json_of` take `--json`, too. Gives the subcommands' parsers."""
    below = parser.add_subparsers(title="subcommands", dest="command", metavar="COMMAND", required=True)
    for name, (settings, act) in commands.items():
        summary = _decapitalised(settings.__doc__ or "")
        command = below.add_parser(name, help=summary.replace("%", "%%"), description=summary)
        add_settings(command, settings)
        if name in json_of:
            command.add_argument("--json", action="store_true", help="print JSON on stdout instead of text")
        command.set_defaults(act=act)
    return dict(below.choices)


def given_settings(arguments: argparse.Namespace, keys: Iterable[str]) -> dict[str, Any]:
    """The values by dotted key; without options that were left out where somebody else's default applies."""
    values = {key: getattr(arguments, _name(key)) for key in keys}
    return {key: value for key, value in values.items() if value is not None and value is not False}


def overrides_of(arguments: argparse.Namespace, keys: Iterable[str]) -> list[str]:
    """The same as `KEY=VALUE`, in the form in which `load_config` lays them over a config."""
    return [f"{key}={json.dumps(value)}" for key, value in given_settings(arguments, keys).items()]


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _field(settings: type[Settings], key: str) -> FieldInfo:
    *groups, name = key.split(".")
    for group in groups:
        inner: Any = settings.model_fields[group].annotation
        settings = inner
    return settings.model_fields[name]


def _option_help(field: FieldInfo) -> str:
    """The first sentence of the field's docstring as help: without its capital, without its full stop."""
    return _decapitalised(" ".join((field.description or "").split()).split(". ")[0]).replace("%", "%%")


def _decapitalised(sentence: str) -> str:
    first, _, rest = " ".join(sentence.split()).removesuffix(".").partition(" ")
    return f"{first.lower() if first[1:].islower() or not first[1:] else first} {rest}".strip()


def _kind(field: FieldInfo) -> dict[str, Any]:
    """What argparse has to know of a field's type: the choices of a literal, else how a value is read and shown."""
    metavar = next((entry.metavar for entry in field.metadata if isinstance(entry, Shown)), _metavar(field.annotation))
    choices = next((get_args(kind) for kind in _alternatives(field) if get_origin(kind) is Literal), None)
    if choices is not None and not _is_list(field):
        return {"choices": choices, "metavar": metavar}
    return {"type": _reader(field), "metavar": metavar}


def _alternatives(field: FieldInfo) -> tuple[Any, ...]:
    """The type itself, and what it is made of: of `str | None` also `str`."""
    return (field.annotation, *get_args(field.annotation))


def _is_list(field: FieldInfo) -> bool:
    return any(get_origin(kind) is tuple for kind in _alternatives(field))


def _metavar(annotation: Any) -> str | None:
    """`N` for whole numbers, `X` for others, `A,B` for lists, `PATH` for paths; None leaves the option's own name."""
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(annotation)]
    kinds = kinds or [annotation]
    letter = "N" if int in kinds else "X" if float in kinds else None
    if get_origin(annotation) is tuple:
        return f"{letter},{letter}" if letter else "A,B"
    return "PATH" if Path in kinds else letter


def _reader(field: FieldInfo) -> Callable[[str], Any]:
    """An argparse type that converts and checks a value as the settings class does; lists are separated by commas."""

    def read(text: str) -> Any:
        kind: Any = Annotated[field.annotation, field]
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        try:
            return adapter.validate_python(words(text) if _is_list(field) else text)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise argparse.ArgumentTypeError(f"{text!r}, expected: {expected}") from None

    return read


# the base of a model ------------------------------------------------------------------------------------------------

BASE_KEYS = ("hub", "tiles", "dtype", "quantization", "device")


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """Where the base of a model lies and how it is loaded, for verbs that open one; `base_of` reads them."""
    from throughline.core.settings import AnswerSettings, ModelSettings

    add_settings(parser, AnswerSettings, ["batch"], "the model's, or {}")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="where the base of a fitted model lies (default: as it was when fitted)"
    )
    add_settings(parser, ModelSettings, ["tiles", "dtype", "quantization"], "the model's, or {}")
    add_settings(parser, ModelSettings, ["hub", "device"])


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Those of a verb that asks a model: `--json`, and where its base lies."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout instead of tables")
    add_base_options(parser)


def open_chosen(arguments: argparse.Namespace, classes: Sequence[str] | None) -> OpenedModel:
    """The model that the options name, with its base loaded and its batch as they say."""
    from throughline.evaluation.saved_model import open_model

    model = open_model(arguments.model, classes, base_of(arguments))
    if arguments.batch is None:
        return model
    return replace(model, answering=model.answering.model_copy(update={"batch": arguments.batch}))


def base_of(arguments: argparse.Namespace) -> Base:
    """What the options say about the base."""
    from throughline.evaluation.saved_model import Base

    return Base(arguments.checkpoint, **given_settings(arguments, BASE_KEYS))


# types of values ----------------------------------------------------------------------------------------------------


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def words(text: str) -> tuple[str, ...]:
    """An argparse type: words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _number(text: str, convert: Callable[[str], Number], fits: Callable[[Number], bool], kind: str) -> Number:
    with contextlib.suppress(ValueError):
        value = convert(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
