"""The README of a saved model, written from its record: what it is, how to ask it, what it has seen, its limits."""

from __future__ import annotations

from throughline.evaluation.saved_model import ADAPTER, RECORD, ModelRecord

METHOD_WORDS = {
    "cls": "labels only",
    "reasoning": "a teacher's reasoning chains only",
    "mtct": "labels and a teacher's reasoning chains together (MTCT)",
    "sarr": "reasoning chains, then rounds on its own accepted chains (SARR)",
    "mtct_sarr": "labels and reasoning chains together (MTCT), then rounds on its own accepted chains (SARR)",
}


def model_card(record: ModelRecord, held_out: str | None = None) -> str:
    """Markdown with the front matter that model hubs read; `held_out` is a section on domains that it had not seen."""
    seen = [held_out.strip()] if held_out is not None else []
    sections = [_front_matter(record), _summary(record), _use(record), *seen, _training(record), _limits(record)]
    return "\n\n".join(sections) + "\n"


def _front_matter(record: ModelRecord) -> str:
    base = f"base_model: {record.checkpoint.source}\n" if record.checkpoint.hub else ""
    return f"---\n{base}library_name: peft\npipeline_tag: image-text-to-text\ntags: [throughline, lora]\n---"


def _summary(record: ModelRecord) -> str:
    return (
        f"# {record.images.name}: {record.method} on {record.checkpoint.name}\n\n"
        f"A LoRA adapter that classifies images into {len(record.classes)} classes and says why, trained with "
        f"Throughline on {METHOD_WORDS.get(record.method, record.method)}; the method is that of RD-MLDG "
        "(arXiv 2602.23777).\n\n"
        f"Classes: {', '.join(record.classes)}."
    )


def _use(record: ModelRecord) -> str:
    hub = " --hub" if record.checkpoint.hub else ""
    return (
        "## Use\n\n"
        f"    throughline predict THIS_FOLDER IMAGE_OR_FOLDER{hub}\n"
        f"    throughline evaluate THIS_FOLDER FOLDER_OF_DOMAINS{hub}\n\n"
        f"It needs the base checkpoint {record.checkpoint.name} (content {record.checkpoint.fingerprint[:16]}). "
        f"`{ADAPTER}/` holds the weights, `{RECORD}` everything that asking needs; they belong together.\n\n"
        "The label question:\n\n"
        f"{_quoted(record.prompts['label'])}\n\n"
        f"The reasoning question ({record.format} chains):\n\n"
        f"{_quoted(record.prompts['reasoning'])}"
    )


def _training(record: ModelRecord) -> str:
    stage = record.settings["training"]["stage"]
    images = ", ".join(f"{domain} ({count:,})" for domain, count in record.images.by_domain.items())
    rows = [
        ("images", f"{record.images.name}: {images}"),
        ("content of the images", record.images.fingerprint[:16]),
        ("chains", _chains(record)),
        ("method, seed", f"{record.method}, {record.seed}"),
        ("optimiser steps", f"{record.optimiser_steps:,}"),
        ("epochs a stage, batch, lr", f"{stage['epochs']:g}, {stage['batch']}, {stage['lr']:g}"),
        ("base, weights in memory, tiles", f"{record.checkpoint.name}, {_weights(record)}, {record.tiles}"),
        *[(name, version) for name, version in sorted(record.versions.items()) if version],
    ]
    if record.method.endswith("sarr"):
        rows.insert(5, ("rounds of self-labelling", str(record.settings["training"]["rounds"])))
    return "## Training\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _weights(record: ModelRecord) -> str:
    return record.dtype if record.quantization == "none" else f"{record.dtype} (decoder in {record.quantization})"


def _chains(record: ModelRecord) -> str:
    if record.chains is None:
        return "none"
    source = {"describer": "the drawn world's describer", "journal": "a chain journal"}[record.chains.source]
    return f"{record.chains.accepted:,} from {source}, accepted by the rule {record.chains.rule}"


def _limits(record: ModelRecord) -> str:
    lines = [
        "It was trained on all domains of its images, so none is left to say how it does on an unseen one. The "
        "estimate for that is the leave-one-domain-out table of `throughline run` with the same settings; accuracy on "
        "the domains above is accuracy on what it has learned from.",
        "A chain is what the model says about its answer; it need not be what the answer came from.",
    ]
    if record.images.drawn:
        lines.append("Its images are the drawn world, a laboratory: nothing here is evidence about real images.")
    return "## Limits\n\n" + "\n\n".join(lines)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())
