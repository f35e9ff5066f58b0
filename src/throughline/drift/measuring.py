"""Chains measured to disk. A part is a Parquet file of some images' tokens; what is whole is not measured again, so a
call that was killed loses one part, and the next one ends with the same rows. Called by `throughline drift measure`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from throughline.analysis.conclusions import blank_image
from throughline.chains.formats import ChainFormat
from throughline.chains.journal import require_journals
from throughline.chains.pairs import read_pairs
from throughline.chains.store import read_store
from throughline.chains.verdicts import with_samples
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, locked, remove_leftovers, write_atomically
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import ImageSet, Sample, balanced
from throughline.drift.measures import SCHEMA, VERSION, Chain, Meter
from throughline.drift.settings import DriftSettings
from throughline.evaluation.saved_model import OpenedModel
from throughline.mllm.images import ImageReader
from throughline.questions.prompt import ImageThenText
from throughline.questions.sampler import InProcessSampler, SamplingRequest

if TYPE_CHECKING:
    import pandas as pd


def measure_drift(
    model: OpenedModel,
    adapter: str | None,
    images: ImageSet,
    settings: DriftSettings,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measures chains about these images and gives all rows; `adapter` is the hash of the model's adapter, where it has
    one. The parts, of a batch each, are below `folder`, in one that is named after all that the rows depend on.

    ThroughlineError for a store without a chain about the images.
    """
    mllm, questions, size = model.mllm, model.questions, model.answering.batch
    meter, reader = Meter(mllm, questions, settings.every), ImageReader(mllm.chat)
    others = None if settings.beside == "blank" else counterfactuals(Path(settings.beside), images)
    if settings.per_class is not None:
        images = replace(images, samples=balanced(images.samples, settings.per_class, settings.seed))
    chains_about: Callable[[Sequence[Sample]], Iterable[Chain]] = partial(own_chains, model, reader, settings)
    samples = images.samples
    if settings.chains is None:
        content: object = [settings.own, settings.temperature, settings.seed, model.answering.chain_tokens]
    else:
        stored = stored_chains(settings.chains, images, questions.format)
        samples = tuple(sample for sample in images.samples if sample.id in stored)
        chains_about = lambda batch: (chain for sample in batch for chain in stored[sample.id])  # noqa: E731
        content = [[own.key, own.text, own.finish_reason] for own in chains_about(samples)]
    shown = [[own.id, own.label, own.image_sha256] for own in (*samples, *(others or {}).values())]
    loaded = [mllm.fingerprint, adapter, mllm.quantization, str(mllm.model.dtype), mllm.chat.tiles]
    asked = [questions.format.name, questions.reasoning, questions.class_names, settings.every, size, others is None]
    parts = folder / f"tokens-{content_hash([VERSION, loaded, asked, shown, content])[:12]}"
    parts.mkdir(parents=True, exist_ok=True)
    with locked(parts, "another process is writing this folder"), mllm.evaluating():  # adapters are folded once
        remove_leftovers(parts)
        for start in range(0, len(samples), size):
            part, batch = parts / f"part-{start // size:06}.parquet", samples[start : start + size]
            if not part.is_file():
                tables, buffer = [SCHEMA.empty_table()], io.BytesIO()
                for chain in chains_about(batch):
                    image, other = reader.encode(chain.sample), None
                    if others is None:
                        other = blank_image(mllm.chat, chain.sample)
                    elif chain.sample.id in others:
                        other = reader.encode(others[chain.sample.id])
                    tables.append(meter.measure(chain, image, other))
                pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
                write_atomically(part, buffer.getvalue())
            on_progress(start + len(batch), len(samples))
    return pq.read_table(parts).to_pandas()


def stored_chains(store: Path, images: ImageSet, form: ChainFormat) -> dict[str, list[Chain]]:
    """All chains of a store that are in this format and about these very images, right or wrong, by sample id.
    ThroughlineError where there is none."""
    rows = read_store(require_journals(store))
    answers = with_samples(rows.answers, images)
    chains: dict[str, list[Chain]] = {}
    for found in rows.read(answers.index[answers["is_same"] & (answers["format"] == form.name)]):
        chain = Chain(images.by_id[found.sample_id], found.key, found.text, found.finish_reason)
        chains.setdefault(found.sample_id, []).append(chain)
    if not chains:
        raise ThroughlineError(f"no {form.name} chain is about these images", store, f"are they in {images.root}?")
    return chains


def own_chains(
    model: OpenedModel, reader: ImageReader, settings: DriftSettings, batch: Sequence[Sample]
) -> Iterator[Chain]:
    """What the model writes about a batch; the same batch gives the same chains."""
    sampling = SamplingSettings(temperature=settings.temperature, max_new_tokens=model.answering.chain_tokens)
    purposes = tuple(f"drift {number}" for number in range(settings.own))
    request = SamplingRequest(ImageThenText(model.questions.reasoning), sampling, settings.seed, purposes)
    for piece in InProcessSampler(model.mllm, reader).draw(request, [batch]):
        for drawn in piece:
            yield Chain(drawn.sample, f"own {drawn.candidate}", drawn.reply.text, drawn.reply.finish_reason)


def counterfactuals(pairs: Path, images: ImageSet) -> dict[str, Sample]:
    """By sample id the other image of its perception pair, where a folder of pairs has one. ThroughlineError where it
    has none at all."""
    others = {p.chosen.sample.id: p.rejected.sample for p in read_pairs(pairs, images) if p.source == "perception"}
    if not others:
        raise ThroughlineError("no perception pair is here", pairs, "make some, or compare with --beside blank")
    return others
