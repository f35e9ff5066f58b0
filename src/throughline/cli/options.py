"""Options shared by verbs: those that mirror the fields of a settings class, and those of a model's base.

An option is described once, by a field of a settings class: `add_settings` takes its help, type, choices and default
from there, and `given_settings` reads the values back as `{"training.stage.lr": 1e-4}`, ready to be laid over a config.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError

from throughline.core.errors import UsageError
from throughline.core.settings import AnswerSettings, ModelSettings, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from throughline.evaluation.saved_model import OpenedModel

Kind = TypeVar("Kind", bound=Settings)
Subcommands: TypeAlias = "Mapping[str, tuple[type[Settings], Callable[[argparse.Namespace], int]]]"
"""By name, the options of a subcommand and the function that runs it."""

MODEL_HELP = "folder made by `throughline fit`, or a checkpoint (zero-shot): pocket, smol, a folder, with --hub a name"
SOURCE_HELP = "folder <domain>/<class>/<image>, or .csv/.parquet: image, domain, label[, group][, class_name]"


# options that mirror settings ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """How a field stands on the command line, where its type does not say it: `Annotated[Path, Shown("FILE")]`."""

    metavar: str | None = None
    positional: bool = False
    several: Literal["", "+", "*", "append"] = ""
    """A list of words of their own instead of one word with commas: behind each other as argparse's `nargs` has it, or
    each with the option before it."""


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
        shown = next((entry for entry in field.metadata if isinstance(entry, Shown)), Shown())
        names, description = [name if shown.positional else f"--{name.replace('_', '-')}"], _option_help(field)
        if field.annotation is bool:
            parser.add_argument(*names, action="store_true", help=description)
            continue
        kind, required = _kind(field, shown), field.is_required()
        value: Any = None if required else field.get_default(call_default_factory=True)
        value = [*value] if shown.several == "append" else value  # argparse appends to its copy of the default
        if shown.positional:
            kind |= {} if required or shown.several else {"nargs": "?"}
        elif required:
            kind["required"], description = True, f"{description} (required)"
        elif "(default: " not in description:
            known = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            description += f" (default: {(default or '{}').format('none' if known in (None, '') else known)})"
        parser.add_argument(*names, default=value if default is None else None, help=description, **kind)


def add_subcommands(
    parser: argparse.ArgumentParser,
    commands: Subcommands,
    json_of: Collection[str],
) -> dict[str, argparse.ArgumentParser]:
    """A subcommand for each row: its options, whose docstring describes it, and the function that `arguments.act` is.
    Those of `json_of` take `--json`, too. Gives the subcommands' parsers."""
    below = parser.add_subparsers(title="subcommands", dest="command", metavar="COMMAND", required=True)
    for name, (settings, act) in commands.items():
        summary = decapitalised(settings.__doc__ or "")
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


def read_settings(arguments: argparse.Namespace, kind: type[Kind]) -> Kind:
    """An object of `kind` with what was given. Raises a UsageError for what its fields do not take together."""
    try:
        return kind.model_validate(given_settings(arguments, kind.model_fields))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise UsageError(f"argument --{fault['loc'][0]}: {fault['msg']}, not {fault['input']!r}") from None


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
    return decapitalised(" ".join((field.description or "").split()).split(". ")[0]).replace("%", "%%")


def decapitalised(sentence: str) -> str:
    """Without the full stop, and with a small first letter unless the first word is a name."""
    first, _, rest = " ".join(sentence.split()).removesuffix(".").partition(" ")
    return f"{first.lower() if first[1:].islower() or not first[1:] else first} {rest}".strip()


def _kind(field: FieldInfo, shown: Shown) -> dict[str, Any]:
    """What argparse has to know of a field's type: the choices of a literal, else how a value is read and shown."""
    metavar = shown.metavar or _metavar(field.annotation)
    if shown.several:
        how = {"action": "append"} if shown.several == "append" else {"nargs": shown.several}
        return {"type": _reader(get_args(field.annotation)[0]), "metavar": metavar, **how}
    choices = next((get_args(kind) for kind in _alternatives(field) if get_origin(kind) is Literal), None)
    if choices is not None and not _is_list(field):
        return {"choices": choices, "metavar": metavar}
    return {"type": _reader(Annotated[field.annotation, field], is_list=_is_list(field)), "metavar": metavar}


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
    if any(get_origin(kind) is tuple for kind in (annotation, *kinds)):
        return f"{letter},{letter}" if letter else "A,B"
    return "PATH" if Path in kinds else letter


def _reader(kind: Any, is_list: bool = False) -> Callable[[str], Any]:
    """An argparse type that converts and checks a value as the settings class does; lists are separated by commas."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def read(text: str) -> Any:
        words = [word.strip() for word in text.split(",") if word.strip()]
        try:
            return adapter.validate_python(words if is_list else text)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise argparse.ArgumentTypeError(f"{text!r}, expected: {expected}") from None

    return read


# the base of a model ------------------------------------------------------------------------------------------------

BASE_KEYS = ("checkpoint", "hub", "tiles", "dtype", "quantization", "device")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Those of a verb that opens a model: `--json`, and where its base lies and how it is loaded; `base_of` reads
    them."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout instead of tables")
    add_settings(parser, AnswerSettings, ["batch"], "the model's, or {}")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="folder of the base of a fitted model (default: as it was when fitted)"
    )
    add_settings(parser, ModelSettings, ["tiles", "dtype", "quantization"], "the model's, or {}")
    add_settings(parser, ModelSettings, ["hub", "device"])


def open_chosen(arguments: argparse.Namespace, classes: Sequence[str] | None) -> OpenedModel:
    """The model that the options name, or a unit of a run, with its base loaded and its batch as they say."""
    from throughline.evaluation.saved_model import open_model
    from throughline.experiment.checkpoint_export import is_unit, open_unit

    folder, base = Path(arguments.model).expanduser(), base_of(arguments)
    model = open_unit(folder, base, classes)[0] if is_unit(folder) else open_model(arguments.model, classes, base)
    if arguments.batch is None:
        return model
    return replace(model, answering=model.answering.model_copy(update={"batch": arguments.batch}))


def base_of(arguments: argparse.Namespace) -> ModelSettings:
    """What the options say about the base, and nothing else set."""
    return ModelSettings(**given_settings(arguments, BASE_KEYS))
