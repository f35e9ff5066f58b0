"""The keys of a config, and what is wrong with one, in one line: the unknown key with the nearest known one, the value
of the wrong type."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from throughline.core.nearest import nearest


def first_fault(error: ValidationError, model: type[BaseModel], where: str) -> tuple[str, str, str | None]:
    """What, where and what to do of the fault to mend first: an unknown key often is why another one is missing."""
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    unknown = fault["type"] == "extra_forbidden"
    *groups, last = fault["loc"] or ("",)
    # Members of unions stand in the location too, as `tuple[str, ...]`, but never in the place of an unknown key.
    location = (*filter(_is_key, groups), *([last] if unknown or _is_key(last) else []))
    key = ".".join(map(str, location))
    if unknown:
        return f"unknown key {key}", where, _known_key_like(location, model)
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "value_error":
        what, _, remedy = message.partition(": ")
        return f"{key}: {what}" if key else what, where, remedy or None
    if fault["type"] == "missing":
        return f"{key} is missing", where, "add it to the config, or with --set"
    return f"{key} is {_shown(fault['input'])}, expected: {message}", where, None


def _is_key(part: str | int) -> bool:
    return isinstance(part, int) or not part.endswith("]")


def dotted_keys(values: Mapping[str, Any], model: type[BaseModel] | None) -> dict[str, Any]:
    """`{"training.stage": {"lr": 1}}` as `{"training.stage.lr": 1}`, so that other keys of the group are left alone. A
    key whose value is a mapping, such as class descriptions, keeps it whole."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        group = model
        for part in str(key).split("."):
            group = group and _model_of(group, part)
        inner = dotted_keys(value, group) if group is not None and isinstance(value, Mapping) else None
        dotted |= {key: value} if inner is None else {f"{key}.{name}": own for name, own in inner.items()}
    return dotted


def _known_key_like(location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    keys, wanted = list(_all_keys(model)), str(location[-1])
    group = "".join(f"{key}." for key in location[:-1] if isinstance(key, str))
    beside = [key.removeprefix(group) for key in keys if key.rpartition(".")[0] == group.removesuffix(".")]
    near = nearest(wanted, beside)
    if near is not None:
        return f"did you mean {'.'.join(map(str, (*location[:-1], near)))}?"
    elsewhere = [path for path in keys if path.rsplit(".", 1)[-1] == wanted]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere[:2])}?"  # what is common stands before what is of single methods
    return f"the keys here are {', '.join(beside)}"


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The group of keys behind a field, also where it may be null."""
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for key in model.model_fields:
        yield prefix + key
        inner = _model_of(model, key)
        if inner is not None:
            yield from _all_keys(inner, f"{prefix}{key}.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
