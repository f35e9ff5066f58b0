"""How near the chains of a store are to what people wrote about the same images, such as the reports of radiographs:
BLEU and ROUGE-L, by the libraries of their field. `throughline chains stats --references` shows it."""

import posixpath
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from throughline.chains.formats import without_tags
from throughline.chains.journal import require_journals
from throughline.chains.records import Candidate
from throughline.chains.store import read_store
from throughline.core.errors import ThroughlineError, extra
from throughline.core.table import Table
from throughline.core.untrusted import printable
from throughline.domains.tables import read_csv

HEADS = ("accepted by", "texts", "BLEU", "ROUGE-L")


def compare_with_references(store: Path, references: Path) -> Table:
    """A row for all answers about images that have a report in the CSV file `references` (columns `image`, the sample's
    id, and `report`), and one for those that each rule of the store accepted. BLEU is sacrebleu's over all texts
    together, ROUGE-L the mean F of rouge-score, both from 0 to 100; tags are in no text.

    Raises a ThroughlineError without the libraries, without journals or such columns, and where no answer has a report.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ThroughlineError("BLEU and ROUGE-L need libraries", do=extra("text")) from error
    table = read_csv(references, partial(_columns, references))
    reports = {posixpath.normpath(row["image"]): row["report"] for row in table.rows if row["report"]}
    chains = read_store(require_journals(store))
    answers = chains.requests.query("not failed").index
    texts = {row: pair for row, pair in zip(answers, _texts(chains.read(answers), reports), strict=True) if pair[1]}
    if not texts:
        raise ThroughlineError("no answer of the store is about an image with a report", references, "name its images")
    kept = {printable(rule): chains.verdicts(rule).query("accepted").index for rule in chains.rules}
    scorer, rows = RougeScorer(["rougeL"]), list[tuple[str, ...]]()
    for name, index in {"– (all answers)": answers, **kept}.items():
        if pairs := [texts[row] for row in index if row in texts]:
            written, expected = map(list, zip(*pairs, strict=True))
            rouge = fmean(scorer.score(report, text)["rougeL"].fmeasure for text, report in pairs)
            scores = (corpus_bleu(written, [expected]).score, 100 * rouge)
            rows.append((name, f"{len(pairs):,}", *(f"{score:.1f}" for score in scores)))
    return Table("texts against the reports of their images", HEADS, tuple(rows))


def _texts(candidates: Iterator[Candidate], reports: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Each answer without its tags, and the report of its image, or nothing."""
    for candidate in candidates:
        text = without_tags(candidate.text, candidate.format)
        yield " ".join(text.split()), reports.get(candidate.sample_id, "")


def _columns(references: Path, names: Sequence[str]) -> dict[str, str]:
    if missing := {"image", "report"} - {*names}:
        what = f"no column named {' or '.join(sorted(missing))}"
        raise ThroughlineError(what, references, "it needs the columns image and report")
    return {"image": "image", "report": "report"}
