"""The dataset card of an export: the YAML head that `datasets` and the Hub read, and the text for people
(`card.md.jinja`). Called by `export`, at the end. It shows no word of a chain; names and prompts of others are escaped.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from throughline.teaching.exports.records import NAMED, ExportPlan, ExportSummary, share
from throughline.teaching.exports.selection import Selection
from throughline.teaching.exports.trainer_formats import LLAMA_FACTORY_NAME
from throughline.teaching.printable import printable, visible

DRAWN = "describer"
"""The source of chains that the drawn world's describer wrote."""
PROMPTS_SHOWN = 3

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
"""The Hub's size categories, by the number of digits above three."""


def front_matter(
    rows: int, features: Any, data_files: str, content_bytes: int, download_bytes: int, licence: str | None
) -> str:
    """The YAML head of the card. `features` as `parquet.features_of` gives them; `data_files` is the Parquet's pattern,
    relative to the card."""
    import yaml
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo

    info = DatasetInfo(
        features=features,
        splits=SplitDict({"train": SplitInfo("train", num_bytes=content_bytes, num_examples=rows)}),
        download_size=download_bytes,
        dataset_size=content_bytes,
    )
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {
        "task_categories": ["image-classification", "image-text-to-text"],
        "size_categories": [_SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]],
        "tags": ["domain-generalization", "reasoning", "chain-of-thought", "synthetic"],
        # without it `load_dataset` would take the JSONL and its images for data as well
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": data_files}]}],
    }
    DatasetInfosDict({"default": info}).to_dataset_card_data(head)
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def card_text(
    plan: ExportPlan,
    selection: Selection,
    summary: ExportSummary,
    teachers: Counter[tuple[str, str, str]],
    jsonl: str,
) -> str:
    """The card below its head. `teachers` counts chains by (model, source, parameters as JSON); `jsonl` is the folder
    of the trainers' files."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=False)
    environment.filters |= {"escaped": _escaped, "dashes": lambda _: "---"}
    return (
        "\n"
        + environment.get_template("card.md.jinja").render(
            plan=plan,
            images=plan.images,
            summary=summary,
            drawn=any(source == DRAWN for _, source, _ in teachers),
            image_counts=list(_image_counts(plan, selection)),
            teachers=[[*teacher, count] for teacher, count in teachers.most_common(NAMED)],
            prompts=list(_prompts(selection)),
            acceptance=[[rule, count, share(count, summary.asked)] for rule, count in summary.accepted.items()],
            jsonl=jsonl,
            llama_factory=LLAMA_FACTORY_NAME,
        )
        + "\n"
    )


def _image_counts(plan: ExportPlan, selection: Selection) -> Iterator[Sequence[object]]:
    """Exported images by class, domain and in all."""
    counted = Counter((sample.domain, sample.label) for sample, _ in selection.chosen)
    domains = plan.images.domains
    counts = [[counted[domain, name] for domain in domains] for name in plan.images.classes]
    counts.append([sum(of_domain) for of_domain in zip(*counts, strict=True)])
    for name, of_class in zip([*plan.images.classes, "all"], counts, strict=True):
        yield [name, *of_class, sum(of_class)]


def _prompts(selection: Selection) -> Iterator[tuple[str, int, str | None, str]]:
    """(SHA-256, chains, text, fence around it)"""
    texts = selection.store.prompts
    for sha256, count in Counter(selection.exported["prompt_sha256"]).most_common(PROMPTS_SHOWN):
        text = visible(texts[sha256]) if sha256 in texts else None
        longest = max(map(len, re.findall("`+", text or "")), default=0)
        yield sha256, count, text, "`" * max(3, longest + 1)  # a prompt that shows code must not end the block


def _escaped(value: object) -> str:
    """A name as Markdown shows it: one line of at most 200 characters, no markup of its own."""
    line = " ".join(visible(str(value)[:800]).split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(printable(line, 200), quote=False))
