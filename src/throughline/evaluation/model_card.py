"""The README of a saved model, written from its record: what it is, how to ask it, what it has seen, its limits. The
text is `model_card.md.jinja`."""

from collections.abc import Iterator
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from throughline.evaluation.saved_model import ADAPTER, RECORD, ModelRecord
from throughline.training.methods import METHODS


def model_card(record: ModelRecord, held_out: str | None = None) -> str:
    """Markdown with the front matter that model hubs read; `held_out` is a section on domains that it had not seen."""
    method = METHODS.get(record.method)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["quoted"] = lambda text: "\n".join(f"> {line}" for line in text.splitlines())
    template = files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        record=record,
        learned_from=method.words if method is not None else record.method,
        hub=" --hub" if record.checkpoint.hub else "",
        adapter_folder=ADAPTER,
        record_file=RECORD,
        held_out=held_out.strip() if held_out is not None else None,
        training=list(_training(record)),
    )


def _training(record: ModelRecord) -> Iterator[tuple[str, str]]:
    """The rows of the table of what it was trained on, and how."""
    settings = record.settings["training"]
    stage = settings["stage"]
    by_domain = ", ".join(f"{domain} ({count:,})" for domain, count in record.images.by_domain.items())
    yield "images", f"{record.images.name}: {by_domain}"
    yield "content of the images", record.images.fingerprint[:16]
    yield "chains", _chains(record)
    yield "method, seed", f"{record.method}, {record.seed}"
    yield "optimiser steps", f"{record.optimiser_steps:,}"
    if record.method.endswith("sarr"):
        yield "rounds of self-labelling", str(settings["rounds"])
    yield "epochs a stage, batch, lr", f"{stage['epochs']:g}, {stage['batch']}, {stage['lr']:g}"
    yield "base, weights in memory, tiles", f"{record.checkpoint.name}, {_weights(record)}, {record.tiles}"
    yield from ((name, version) for name, version in sorted(record.versions.items()) if version)


def _weights(record: ModelRecord) -> str:
    return record.dtype if record.quantization == "none" else f"{record.dtype} (decoder in {record.quantization})"


def _chains(record: ModelRecord) -> str:
    if record.chains is None:
        return "none"
    source = {"describer": "the drawn world's describer", "journal": "a chain journal"}[record.chains.source]
    return f"{record.chains.accepted:,} from {source}, accepted by the rule {record.chains.rule}"
