"""How far apart the domains of an image set are: in images, in chains, in the words that name classes and those that
do not; kept on disk."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from throughline.analysis.divergence import VERSION, Divergence, Of, divergence
from throughline.analysis.embeddings import Chosen, ClipTowers, Encoder, OwnTowers, rows_of
from throughline.analysis.passages import CLASS, END, MENTION, TAG, TEXT, Word, chain_words
from throughline.analysis.records import BASE, Missing
from throughline.analysis.scoring import Scorer
from throughline.core.files import content_hash
from throughline.domains.samples import Sample, spread
from throughline.domains.views import readable
from throughline.experiment.analyses.scoring import Scoring
from throughline.mllm.checkpoints import fingerprint_checkpoint
from throughline.mllm.load import Mllm

PARTS: tuple[tuple[Of, Chosen], ...] = (
    ("chains", lambda word: word.kind not in {TAG, END}),  # tags are the same everywhere
    ("class words", lambda word: word.kind in {CLASS, MENTION}),
    ("descriptive words", lambda word: word.kind == TEXT),
)


def measure_divergence(
    scoring: Scoring, limit: int, clip: str | None, hub: bool
) -> tuple[tuple[Divergence, ...], list[Missing]]:
    """All kinds, of `limit` images of each domain, from disk where they were measured before; and what is wrong with
    images that cannot be read. `clip` is a checkpoint, from the hub where that is allowed."""
    subject = scoring.subject
    samples, broken = readable(_of_each_domain(subject.images.samples, subject.chains, limit))
    missing = [Missing(what=name, why=why, analysis="divergence") for name, why in broken.items()]
    content = {
        "images": subject.images.fingerprint(),
        "chains": content_hash(dict(subject.chains)),
        "format": subject.questions.format.name,
        "classes": list(subject.questions.classes),
        "limit": limit,
        "clip": None if clip is None else fingerprint_checkpoint(clip),
    }

    def measure(mllm: Mllm) -> Iterator[dict[str, Any]]:
        scoring.say("divergence between domains")
        for record in _measured(scoring.scorer(mllm), samples, subject.chains, clip, hub):
            if record is not None:
                yield record.model_dump(mode="json")

    rows = scoring.lines("divergence", BASE, content, VERSION, measure)
    return tuple(map(Divergence.model_validate, rows)), missing


def _measured(
    scorer: Scorer, samples: Sequence[Sample], chains: Mapping[str, str], clip: str | None, hub: bool
) -> Iterator[Divergence | None]:
    """By the model's own towers, and by CLIP where a checkpoint is named: of all samples, and of the chains of those
    that have one."""
    encoders: list[Encoder] = [OwnTowers(scorer.mllm, scorer.reader)]
    if clip is not None:
        encoders.append(ClipTowers(clip, hub, str(scorer.mllm.device)))
    with_chain = [sample for sample in samples if sample.id in chains]
    texts = [chains[sample.id] for sample in with_chain]
    tokenizer = scorer.mllm.chat.tokenizer
    words: list[list[Word]] = []
    for text in texts:
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        words.append(chain_words(text, spans, scorer.questions.format, scorer.questions.class_names))
    for encoder in encoders:
        domains = [sample.domain for sample in samples]
        yield divergence(rows_of(map(encoder.image, samples)), domains, encoder.name, "images", None)
        domains = [sample.domain for sample in with_chain]
        for of, chosen in PARTS if with_chain else ():
            rows = rows_of(encoder.chain(text, said, chosen) for text, said in zip(texts, words, strict=True))
            yield divergence(rows, domains, encoder.name, of, "teacher")


def _of_each_domain(samples: Sequence[Sample], chains: Mapping[str, str], limit: int) -> list[Sample]:
    """`limit` images of each domain. Where there are chains, images that have one: images and chains are then about the
    same domains and samples."""
    chosen = [sample for sample in samples if sample.id in chains] or samples
    domains = dict.fromkeys(sample.domain for sample in chosen)
    return [kept for domain in domains for kept in spread([s for s in chosen if s.domain == domain], limit)]
