"""An analysis from a run folder, or from any checkpoint and any chain journal, to `analysis.json`."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from throughline.analysis.divergence import Divergence
from throughline.analysis.document import FIELDS, FILE, WHAT, Analysis, Fold, read_analysis, write_analysis
from throughline.analysis.records import Missing
from throughline.analysis.sensitivity import Sensitivity
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.settings import ModelSettings
from throughline.drawn import is_drawn
from throughline.experiment.analyses.divergence import measure_divergence
from throughline.experiment.analyses.fold import FoldAnalysis
from throughline.experiment.analyses.scoring import Say, Scoring, Weights
from throughline.experiment.analyses.sensitivity import rounds_varied, runs_varied
from throughline.experiment.analyses.settings import USUAL_LIMIT, AnalyzeSettings
from throughline.experiment.analyses.subject import AnalyzedFold, open_subject, read_analyzed_run, read_config
from throughline.runs.folder import CONFIG, hold_run
from throughline.runs.reader import read_run
from throughline.training.methods import METHODS, method_table


def analyze_run(folder: Path, settings: AnalyzeSettings, others: Sequence[Path] = (), say: Say = print) -> Analysis:
    """Measures what is not on disk yet and writes `analysis.json` into the run folder. Sensitivity is over the rounds
    of the run, and over the config keys in which the run and `others` differ.

    What is not asked for stays as it was in the file, if that was of as many images. Raises ThroughlineError for a
    folder that is no run or that another process works in, UsageError for an unknown analysis.
    """
    _require_known("analysis", settings.what, WHAT)
    own = method_table(read_config(folder).methods) if (folder / CONFIG).is_file() else {}
    _require_known("method", settings.methods or (), METHODS | own)
    run, folds = read_analyzed_run(folder, settings.images, settings.checkpoint, settings.device)
    with hold_run(folder):
        sensitivity: tuple[Sensitivity, ...] = ()
        lacking: list[Missing] = []
        if "sensitivity" in settings.what:
            varied, lacking = runs_varied([run, *map(read_run, others)]) if others else ([], [])
            sensitivity = (*rounds_varied(run), *varied)
        return _analyze(folds, folder, settings, say, sensitivity, lacking)


def analyze_model(
    model: str, chains: str, base: ModelSettings, folder: Path, settings: AnalyzeSettings, say: Say = print
) -> Analysis:
    """A model, fitted or plain, on the accepted chains of a journal; `analysis.json` goes to `folder`.

    There are no rounds and no held-out answers: conclusions and sensitivity are left out and noted. Of a plain
    checkpoint there is no before and after either.
    """
    _require_known("analysis", settings.what, WHAT)
    fold = open_subject(model, chains, base, folder, settings.images)
    lacking = [
        Missing(what=name, why="a run folder has what it needs", analysis=name)
        for name in ("conclusions", "sensitivity")
        if name in settings.what
    ]
    return _analyze([fold], folder, settings, say, (), lacking)


def _analyze(
    folds: Sequence[AnalyzedFold],
    folder: Path,
    settings: AnalyzeSettings,
    say: Say,
    sensitivity: tuple[Sensitivity, ...],
    lacking: Sequence[Missing],
) -> Analysis:
    """Measures the folds, and writes that with what stays of an earlier call. Divergence is of the first combination of
    the factors' levels."""
    before = _read_before(folder / FILE, say)
    # what was measured of other images could not stand beside what is measured now
    limit = settings.limit or (USUAL_LIMIT if before is None else before.limit)
    subject = folds[0].subject
    scoring = Scoring(subject, Weights(subject.load), say)
    records: list[Fold] = []
    missing: list[Missing] = []
    for number, fold in enumerate(folds, start=1):
        place = f"fold {number} of {len(folds)}: " if len(folds) > 1 else ""
        scoring = scoring.of(fold.subject, place)
        analysis = FoldAnalysis(scoring, fold, limit, settings.methods)
        records.append(analysis.measure(settings.what))
        missing += analysis.missing
    apart: tuple[Divergence, ...] = ()
    if "divergence" in settings.what:
        apart, unreadable = measure_divergence(scoring.of(subject), limit, settings.clip, settings.hub)
        missing += unreadable
    measured = Analysis(
        dataset=subject.images.name,
        model=subject.model,
        drawn=is_drawn(subject.images.root),
        limit=limit,
        conclusions_of=settings.methods,
        classes=subject.questions.classes,
        folds=tuple(records),
        divergence=apart,
        sensitivity=sensitivity,
        missing=(*missing, *lacking),
    )
    measured = _kept_from(before, measured, settings.what)
    write_analysis(folder / FILE, measured)
    return measured


def _require_known(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """UsageError for the first name that is none of those known."""
    for name in names:
        if name not in known:
            raise UsageError(f"no {kind} is called {name!r}", do=f"choose from {', '.join(known)}")


def _read_before(path: Path, say: Say) -> Analysis | None:
    """What an earlier call measured; a file that cannot be read is written anew."""
    try:
        return read_analysis(path)
    except ThroughlineError as error:
        say(f"{error}: it is written again")
        return None


def _kept_from(before: Analysis | None, analysis: Analysis, what: Sequence[str]) -> Analysis:
    """`analysis` with what was not asked for as it stood before, of folds with the same weights; of as many images,
    where their number matters."""
    if before is None or before.classes != analysis.classes:
        return analysis
    comparable = {"optimisation", "sensitivity"} if before.limit != analysis.limit else set(WHAT)
    kept = comparable - set(what)
    fields = [field for name in FIELDS if name in kept for field in FIELDS[name]]
    earlier = {fold.identity: fold for fold in before.folds}
    folds = []
    for fold in analysis.folds:
        same = earlier.get(fold.identity)
        update = {} if same is None else {field: getattr(same, field) for field in fields}
        folds.append(fold.model_copy(update=update))
    whole: dict[str, object] = {name: getattr(before, name) for name in ("divergence", "sensitivity") if name in kept}
    if "conclusions" in kept:
        whole["conclusions_of"] = before.conclusions_of
    missing = dict.fromkeys((*(m for m in before.missing if m.analysis in kept), *analysis.missing))
    return analysis.model_copy(update={"folds": tuple(folds), "missing": tuple(missing), **whole})
