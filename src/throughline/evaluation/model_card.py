"""The README of a saved model, written from its record: what it is, how to ask it, what it has seen, its limits. The
text is `model_card.md.jinja`."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from throughline.evaluation.saved_model import ADAPTER, RECORD, ModelRecord
from throughline.training.methods import METHODS


def model_card(record: ModelRecord, held_out: str | None = None) -> str:
    """Markdown with the front matter that model hubs read; `held_out` is a section on domains that it had not seen."""
    method = METHODS.get(record.method)
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["quoted"] = lambda text: "\n".join(f"> {line}" for line in text.splitlines())
    environment.filters["thousands"] = "{:,}".format
    template = files(__package__).joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        record=record,
        learned_from=method.words if method is not None else record.method,
        hub=" --hub" if record.checkpoint.hub else "",
        adapter_folder=ADAPTER,
        record_file=RECORD,
        held_out=held_out.strip() if held_out is not None else None,
        training=record.settings["training"],
    )
