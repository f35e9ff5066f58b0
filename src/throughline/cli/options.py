"""Options shared by verbs: those that mirror the fields of a settings class, those of a model's base, and the types of
values on a command line.

A setting is described once, by its field: `add_settings` takes an option's help, type, choices and default from there,
and `given_settings` reads the values back as `{"training.stage.lr": 1e-4}`, ready to be laid over a config.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from throughline.core.settings import Settings
    from throughline.evaluation.saved_model import Base, OpenedModel

Number = TypeVar("Number", int, float)

MODEL_HELP = "folder made by `throughline fit`; or a checkpoint, zero-shot: `pocket`, a folder, with --hub a hub name"
SOURCE_HELP = "folder <domain>/<class>/<image>, or .csv/.parquet with columns image, domain, label[, group]"


# options that mirror settings ---------------------------------------------------------------------------------------


def add_settings(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    settings: type[Settings],
    keys: Iterable[str],
    default: str | None = None,
) -> None:
    """Adds an option for each field of `settings`, named by its dotted key: `training.stage.lr` becomes `--lr`.

    Without `default` an option that is left out has the field's default. With it, the value is then None and help
    shows these words instead, `{}` in them standing for the field's default: "the preset's, or {}".
    """
    for key in keys:
        field = _field(settings, key)
        value = field.get_default(call_default_factory=True)
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
        description = f"{_option_help(field)} (default: {(default or '{}').format('none' if shown is None else shown)})"
        unset = value if default is None else None
        flag = f"--{_name(key).replace('_', '-')}"
        if field.annotation is bool:
            parser.add_argument(flag, action="store_true", help=_option_help(field))
        elif get_origin(field.annotation) is Literal:
            parser.add_argument(flag, choices=get_args(field.annotation), default=unset, help=description)
        else:
            metavar = _metavar(field.annotation)
            parser.add_argument(flag, type=_reader(field), default=unset, metavar=metavar, help=description)


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
    sentence = " ".join((field.description or "").split()).split(". ")[0].removesuffix(".").replace("%", "%%")
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]


def _metavar(annotation: Any) -> str | None:
    """`N` for whole numbers, `X` for others, `A,B` for lists; None leaves the option's own name."""
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(annotation)]
    kinds = kinds or [annotation]
    letter = "N" if int in kinds else "X" if float in kinds else None
    if get_origin(annotation) is tuple:
        return f"{letter},{letter}" if letter else "A,B"
    return letter


def _reader(field: FieldInfo) -> Callable[[str], Any]:
    """An argparse type that converts and checks a value as the settings class does; lists are separated by commas."""

    def read(text: str) -> Any:
        from pydantic import TypeAdapter, ValidationError

        kind: Any = Annotated[field.annotation, field]
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        try:
            return adapter.validate_python(words(text) if get_origin(field.annotation) is tuple else text)
        except ValidationError as error:
            expected = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise argparse.ArgumentTypeError(f"{text!r}, expected: {expected}") from None

    return read


# the base of a model ------------------------------------------------------------------------------------------------

BASE_KEYS = ("hub", "tiles", "dtype", "quantization", "device")


def add_base_options(parser: argparse.ArgumentParser) -> None:
    """Where the base of a model lies and how it is loaded, for verbs that open one; `base_of` reads them."""
    from throughline.core.settings import AnswerSettings
    from throughline.experiment.config import ModelConfig

    add_settings(parser, AnswerSettings, ["batch"], "the model's, or {}")
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="where the base of a fitted model lies (default: as it was when fitted)"
    )
    add_settings(parser, ModelConfig, ["tiles", "dtype", "quantization"], "the model's, or {}")
    add_settings(parser, ModelConfig, ["hub", "device"])


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


def whole(text: str) -> int:
    """An argparse type: a whole number of at least 0."""
    return _number(text, int, lambda value: value >= 0, "a whole number of at least 0")


def positive_int(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    return _number(text, int, lambda value: value >= 1, "a whole number of at least 1")


def dollars(text: str) -> float:
    """An argparse type: an amount above 0."""
    return _number(text, float, lambda value: 0 < value < math.inf, "an amount above 0")


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def words(text: str) -> tuple[str, ...]:
    """An argparse type: words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _number(text: str, convert: Callable[[str], Number], fits: Callable[[Number], bool], kind: str) -> Number:
    with contextlib.suppress(ValueError):
        value = convert(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {kind}")
