"""The dataset card of an export: the YAML head that `datasets` and the Hub read, and the text for people
(`card.md.jinja`). Called by `export`, at the end. It shows no word of a chain; names and prompts of others are escaped.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.core.untrusted import printable, visible
from throughline.teaching.exports.selection import NAMED, ExportPlan, ExportSummary
from throughline.teaching.exports.trainer_formats import JSONL, LLAMA_FACTORY_NAME

DRAWN = "describer"
"""The source of chains that the drawn world's describer wrote."""
PROMPTS_SHOWN = 3

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
"""The Hub's size categories, by the number of digits above three."""


def card_text(
    plan: ExportPlan,
    summary: ExportSummary,
    chosen: Any,
    prompts: Mapping[str, str],
    features: Any,
    shards: Sequence[Path],
    content_bytes: int,
) -> str:
    """The card. `chosen` are the exported answers as `selection.select` gives them, `prompts` the texts of questions by
    SHA-256 as far as they are known, `features` the columns of the `shards`, which hold `content_bytes`
    uncompressed."""
    from jinja2 import Environment, PackageLoader
    from pyarrow import parquet

    columns = ["model", "source", "params"]
    table = parquet.read_table(shards[0].parent, columns=columns)
    counts = table.group_by(columns, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    teachers = sorted((tuple(row.values()) for row in counts), key=lambda row: -row[-1])
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=False)
    environment.filters |= {"escaped": _escaped, "dashes": lambda _: "---"}
    body = environment.get_template("card.md.jinja").render(
        plan=plan,
        images=plan.images,
        summary=summary,
        drawn=DRAWN in set(chosen["source"]),
        image_counts=list(_image_counts(plan, chosen["place"].unique())),
        teachers=teachers[:NAMED],
        prompts=list(_prompts(Counter(chosen["prompt_sha256"]), prompts)),
        acceptance=[[rule, count, f"{count / summary.asked:.1%}"] for rule, count in summary.accepted.items()],
        jsonl=JSONL,
        llama_factory=LLAMA_FACTORY_NAME,
    )
    return f"{_front_matter(plan, len(chosen), features, shards, content_bytes)}\n{body}\n"


def _front_matter(plan: ExportPlan, rows: int, features: Any, shards: Sequence[Path], content_bytes: int) -> str:
    """The YAML head of the card."""
    import yaml
    from datasets import DatasetInfo
    from datasets.info import DatasetInfosDict
    from datasets.splits import SplitDict, SplitInfo

    info = DatasetInfo(
        features=features,
        splits=SplitDict({"train": SplitInfo("train", num_bytes=content_bytes, num_examples=rows)}),
        download_size=sum(path.stat().st_size for path in shards),
        dataset_size=content_bytes,
    )
    head: dict[str, Any] = {"license": plan.licence} if plan.licence else {}
    data = [{"split": "train", "path": f"{shards[0].parent.name}/*.parquet"}]
    head |= {
        "task_categories": ["image-classification", "image-text-to-text"],
        "size_categories": [_SIZES[min(max(len(str(rows)) - 3, 0), len(_SIZES) - 1)]],
        "tags": ["domain-generalization", "reasoning", "chain-of-thought", "synthetic"],
        # without it `load_dataset` would take the JSONL and its images for data as well
        "configs": [{"config_name": "default", "data_files": data}],
    }
    DatasetInfosDict({"default": info}).to_dataset_card_data(head)
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _image_counts(plan: ExportPlan, places: Sequence[int]) -> Iterator[Sequence[object]]:
    """Exported images by class, domain and in all."""
    samples, domains = [plan.images.samples[place] for place in places], plan.images.domains
    counted = Counter((sample.domain, sample.label) for sample in samples)
    of_domain = Counter(sample.domain for sample in samples)
    for name in plan.images.classes:
        counts = [counted[domain, name] for domain in domains]
        yield [name, *counts, sum(counts)]
    yield ["all", *(of_domain[domain] for domain in domains), len(samples)]


def _prompts(counts: Counter[str], texts: Mapping[str, str]) -> Iterator[tuple[str, int, str | None, str]]:
    """(SHA-256, chains, text, fence around it)"""
    for sha256, count in counts.most_common(PROMPTS_SHOWN):
        text = visible(texts[sha256]) if sha256 in texts else None
        longest = max(map(len, re.findall("`+", text or "")), default=0)
        yield sha256, count, text, "`" * max(3, longest + 1)  # a prompt that shows code must not end the block


def _escaped(value: object) -> str:
    """A name as Markdown shows it: one line of at most 200 characters, no markup of its own."""
    line = " ".join(visible(str(value)[:800]).split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(printable(line, 200), quote=False))
