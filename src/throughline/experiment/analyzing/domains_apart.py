"""How far apart the domains of an image set are: in images, in chains, in the words that name classes and those that
do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from throughline.analysis.divergence import divergence
from throughline.analysis.embeddings import Chosen, ClipTowers, Encoder, OwnTowers
from throughline.analysis.passages import CLASS, END, MENTION, TAG, TEXT, Word, chain_words
from throughline.analysis.records import Divergence
from throughline.analysis.scoring import Scorer
from throughline.domains.samples import Sample, spread

PARTS: tuple[tuple[str, Chosen], ...] = (
    ("chains", lambda word: word.kind not in {TAG, END}),  # tags are the same everywhere
    ("class words", lambda word: word.kind in {CLASS, MENTION}),
    ("descriptive words", lambda word: word.kind == TEXT),
)


def domains_apart(
    scorer: Scorer,
    samples: Sequence[Sample],
    chains: Mapping[str, str],
    limit: int,
    clip: str | None = None,
    hub: bool = False,
) -> Iterator[Divergence]:
    """By the model's own towers, and by CLIP where a checkpoint is named; `limit` images of each domain. Where
    there are chains, images are those that have one: both are then about the same domains and samples."""
    encoders: list[Encoder] = [OwnTowers(scorer.mllm, scorer.reader)]
    if clip is not None:
        encoders.append(ClipTowers(clip, hub, str(scorer.mllm.device)))
    told = _of_each_domain([one for one in samples if one.id in chains], limit)
    shown = told or _of_each_domain(samples, limit)
    texts = [chains[one.id] for one in told]
    tokenizer = scorer.mllm.chat.tokenizer
    words: list[list[Word]] = []
    for text in texts:
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        words.append(chain_words(text, spans, scorer.form, scorer.classes))
    for encoder in encoders:
        found = [divergence(encoder.images(shown), [one.domain for one in shown], encoder.name, "images", None)]
        for of, chosen in PARTS if told else ():
            rows = encoder.chains(texts, words, chosen)
            found.append(divergence(rows, [one.domain for one in told], encoder.name, of, "teacher"))  # type: ignore[arg-type]
        yield from (one for one in found if one is not None)


def _of_each_domain(samples: Sequence[Sample], limit: int) -> list[Sample]:
    domains = dict.fromkeys(one.domain for one in samples)
    return [kept for domain in domains for kept in spread([one for one in samples if one.domain == domain], limit)]
