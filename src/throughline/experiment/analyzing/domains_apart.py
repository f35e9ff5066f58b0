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
    clip: str | None = None,
    hub: bool = False,
) -> Iterator[Divergence]:
    """By the model's own towers, and by CLIP where a checkpoint is named: of `samples` (see `of_each_domain`), and of
    the chains of those that have one."""
    encoders: list[Encoder] = [OwnTowers(scorer.mllm, scorer.reader)]
    if clip is not None:
        encoders.append(ClipTowers(clip, hub, str(scorer.mllm.device)))
    told = [one for one in samples if one.id in chains]
    texts = [chains[one.id] for one in told]
    tokenizer = scorer.mllm.chat.tokenizer
    words: list[list[Word]] = []
    for text in texts:
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        words.append(chain_words(text, spans, scorer.form, scorer.classes))
    for encoder in encoders:
        found = [divergence(encoder.images(samples), [one.domain for one in samples], encoder.name, "images", None)]
        for of, chosen in PARTS if told else ():
            rows = encoder.chains(texts, words, chosen)
            found.append(divergence(rows, [one.domain for one in told], encoder.name, of, "teacher"))  # type: ignore[arg-type]
        yield from (one for one in found if one is not None)


def of_each_domain(samples: Sequence[Sample], chains: Mapping[str, str], limit: int) -> list[Sample]:
    """`limit` images of each domain. Where there are chains, images that have one: images and chains are then about the
    same domains and samples."""
    chosen = [one for one in samples if one.id in chains] or samples
    domains = dict.fromkeys(one.domain for one in chosen)
    return [kept for domain in domains for kept in spread([one for one in chosen if one.domain == domain], limit)]
