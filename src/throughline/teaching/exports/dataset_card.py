"""The dataset card of an export: the YAML head that `datasets` and the Hub read, and the text for people. Called by
`exporting`, at the end. It shows no word of a chain; names and prompts of others are escaped.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from throughline.chains.records import Candidate
from throughline.core.files import canonical_json
from throughline.domains.samples import ImageSet, Sample
from throughline.teaching.exports.records import NAMED, ExportPlan, ExportSummary, Spent, plain, share, visible

DRAWN = "describer"
"""The source of chains that the drawn world's describer wrote."""
PROMPTS_SHOWN = 3

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
"""The Hub's size categories, by the number of digits above three."""


@dataclass
class Exported:
    """What the card says of the chains that came along."""

    spent: Spent = field(default_factory=Spent)
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(domain, label) → images"""
    teachers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(model, source, parameters as JSON) → chains"""
    prompts: Counter[str] = field(default_factory=Counter)
    """SHA-256 → chains"""

    def add(self, sample: Sample, candidates: Iterable[Candidate]) -> None:
        """Counts an image with its chains."""
        self.images[sample.domain, sample.label] += 1
        for candidate in candidates:
            self.spent.add(candidate)
            self.teachers[candidate.model, candidate.source, canonical_json(candidate.params)] += 1
            self.prompts[candidate.prompt_sha256] += 1


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
    plan: ExportPlan, summary: ExportSummary, exported: Exported, prompts: Mapping[str, str], training: str
) -> str:
    """The card below its head. `prompts` are texts by SHA-256; `training` tells, in Markdown, how to use the JSONL."""
    parts = [
        *_about(plan, summary, exported),
        "## To load",
        *_loading(plan),
        "## Images",
        _images_table(plan.images, exported.images),
        "## Teacher",
        _table(
            ["model", "source", "parameters", "chains"],
            [[*teacher, count] for teacher, count in exported.teachers.most_common(NAMED)],
        ),
        *(_prompt_text(sha256, count, prompts) for sha256, count in exported.prompts.most_common(PROMPTS_SHOWN)),
        f"All {summary.spent.answers:,} answers of the store: {summary.spent}. "
        f"Those exported here: {summary.spent_on_exported}.",
        "## Acceptance",
        *_acceptance(plan, summary),
        *([plan.measured.strip()] if plan.measured else []),
        "## To train",
        training,
        "## Counted",
        "\n".join(f"- {_escaped(line)}" for line in summary.lines()),
        "## Licence",
        f"{_escaped(plan.licence)}."
        if plan.licence
        else "No licence given. The images keep the licence of their source.",
    ]
    return "\n" + "\n\n".join(parts) + "\n"


def _about(plan: ExportPlan, summary: ExportSummary, exported: Exported) -> Iterator[str]:
    images = plan.images
    which = "every accepted candidate" if plan.every_accepted else "the first accepted candidate"
    yield f"# Reasoning chains on {_escaped(images.name)}"
    yield (
        f"{summary.chains:,} chains on {summary.images:,} images of {len(images.classes)} classes and "
        f"{len(images.domains)} domains, {which} of each image by rule `{summary.rule}`. "
        "Throughline shows a teacher the image and the list of all classes, never the label; labels were joined "
        "afterwards, to judge the chains."
    )
    if any(source == DRAWN for _, source, _ in exported.teachers):
        yield (
            "**Drawn images: no evidence about real ones.** Chains of source `describer` were made from the scene "
            "behind a drawn image, not by a model that sees."
        )


def _loading(plan: ExportPlan) -> Iterator[str]:
    stages = ", ".join(f"`{name.lower()}`" for name in plan.format.stages)
    yield """\
```python
from datasets import load_dataset

folder = "path/to/this/folder"
chains = load_dataset(str(folder))["train"]
```"""
    yield (
        f"A row is a chain: `image` (the original file's bytes), `label`, `domain`, `chain` (the teacher's text as it "
        f"came), its stages ({stages}), `concluded` (the class it names), and what it came from (`model`, `source`, "
        "`prompt`, `params`, `key` in the store, tokens and cost). Texts are a model's: treat them as untrusted."
    )


def _images_table(images: ImageSet, counted: Counter[tuple[str, str]]) -> str:
    counts = [[counted[domain, name] for domain in images.domains] for name in images.classes]
    counts.append([sum(of_domain) for of_domain in zip(*counts, strict=True)])
    names = [*images.classes, "all"]
    rows = [[name, *of_class, sum(of_class)] for name, of_class in zip(names, counts, strict=True)]
    return _table(["class", *images.domains, "all"], rows)


def _prompt_text(sha256: str, count: int, prompts: Mapping[str, str]) -> str:
    told = f"Prompt of {count:,} chains, SHA-256 `{_escaped(sha256)}`"
    if sha256 not in prompts:
        return f"{told}; the store does not hold its text."
    text = visible(prompts[sha256])
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)  # a prompt that shows code must not end the block
    return f"{told}:\n\n{fence}text\n{text}\n{fence}"


def _acceptance(plan: ExportPlan, summary: ExportSummary) -> Iterator[str]:
    yield f"Of {summary.asked:,} asked images, those with at least one accepted candidate:"
    yield _table(
        ["rule", "images", "share"],
        [[rule, count, share(count, summary.asked)] for rule, count in summary.accepted.items()],
    )
    yield (
        "`format`: the stages of the format, each once, in order, nothing else. `consistent`: and the conclusion names "
        "exactly one class, which the reflection does not overturn. `correct`: and it is the image's class."
    )
    classes = ", ".join(_escaped(name) for name in plan.images.classes)
    yield f"Format `{plan.format.name}`; classes in this order: {classes}."


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [[_escaped(cell) for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(value: object) -> str:
    """A name as Markdown shows it: one line of at most 200 characters, no markup of its own."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(plain(str(value)), quote=False))
