"""Building a reasoning dataset: ask a teacher for up to K chains an image, stop at the first that the rule accepts.

Every answer goes into the journal before it is judged; labels are joined here, at verdict time, and nowhere earlier.
A chain that is in the journal is never asked for again. Accepted chains are what `training` learns from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from throughline.chains.formats import ChainFormat
from throughline.chains.journal import JournalWriter, read_journal
from throughline.chains.prompts import make_prompts, prompt_sha256
from throughline.chains.records import Candidate, candidate_key, classes_sha256, make_header
from throughline.chains.verdicts import verdict_on
from throughline.domains.samples import ImageSet, Sample
from throughline.teaching.teachers import Describer, Teacher


def build_chains(
    images: ImageSet,
    root: Path,
    journal: Path,
    *,
    format: ChainFormat,
    rule: str,
    candidates: int,
    seed: int,
    teacher: Teacher | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Accepted chain text by sample id. `root` is the drawn world's folder, read when no other teacher is given."""
    teacher = teacher or Describer(root, format, seed)
    prompts = make_prompts(images.classes, format)
    asked = prompt_sha256(prompts.reasoning)
    earlier = read_journal(journal) if journal.is_file() else None
    known = _Known(earlier.candidates if earlier else ())
    judged = {(v.key, v.sample_id, v.rule) for v in earlier.verdicts} if earlier else set()
    accepted: dict[str, str] = {}
    with JournalWriter(journal, flush_every=256) as writer:
        header = make_header(images.classes, format, prompts)
        if earlier is None or header not in earlier.headers:
            writer.write(header)
        for done, sample in enumerate(images.samples, start=1):
            for number in range(candidates):
                key = candidate_key(sample.image_sha256, asked, teacher.model, {}, seed, number)
                candidate = known.of(key, sample)
                if candidate is None:
                    candidate = known.copied(key, sample) or _asked(
                        teacher, sample, number, key, images.classes, format, asked, seed
                    )
                    writer.write(candidate)
                    known.add(candidate)
                verdict = verdict_on(candidate, rule, format, images.classes, sample.label)
                if (candidate.key, sample.id, rule) not in judged:
                    writer.write(verdict)
                if verdict.accepted:
                    accepted[sample.id] = candidate.text
                    break
            told(done, len(images.samples))
    return accepted


def accepted_chains(journals: Iterable[Path], images: ImageSet, format: ChainFormat, rule: str) -> dict[str, str]:
    """The first accepted chain of each sample among the candidates of existing journals, judged anew by `rule`."""
    found = read_journal(list(journals))
    accepted: dict[str, str] = {}
    for candidate in sorted(found.candidates, key=lambda c: (c.sample_id, c.round, c.candidate)):
        sample = images.by_id.get(candidate.sample_id)
        if sample is None or sample.id in accepted or candidate.format != format.name:
            continue
        if verdict_on(candidate, rule, format, images.classes, sample.label).accepted:
            accepted[sample.id] = candidate.text
    return accepted


class _Known:
    """Candidates that need not be asked for: those of the very request, whatever else the journal holds."""

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._of: dict[tuple[str, str], Candidate] = {}
        self._first: dict[str, Candidate] = {}
        for candidate in candidates:
            self.add(candidate)

    def add(self, candidate: Candidate) -> None:
        self._of[candidate.key, candidate.sample_id] = candidate
        self._first.setdefault(candidate.key, candidate)

    def of(self, key: str, sample: Sample) -> Candidate | None:
        return self._of.get((key, sample.id))

    def copied(self, key: str, sample: Sample) -> Candidate | None:
        """The answer for another sample with the same image."""
        first = self._first.get(key)
        return None if first is None else first.copied_for(sample.id, sample.domain)


def _asked(
    teacher: Teacher,
    sample: Sample,
    number: int,
    key: str,
    classes: Sequence[str],
    format: ChainFormat,
    asked: str,
    seed: int,
) -> Candidate:
    written = teacher.write(sample, number)
    return Candidate(
        key=key,
        sample_id=sample.id,
        image_sha256=sample.image_sha256,
        domain=sample.domain,
        classes_sha256=classes_sha256(classes),
        format=format.name,
        source=teacher.source,
        model=teacher.model,
        prompt_sha256=asked,
        seed=seed,
        candidate=number,
        text=written.text,
        finish_reason=written.finish_reason,
    )
