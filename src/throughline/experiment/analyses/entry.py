"""An analysis from a run folder, or from any checkpoint and any chain journal, to `analysis.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from throughline.analysis.divergence import Divergence
from throughline.analysis.document import FIELDS, FILE, WHAT, Analysis, Fold, read_analysis, write_analysis
from throughline.analysis.records import Missing
from throughline.core.errors import ThroughlineError
from throughline.experiment.analyses.divergence import measure_divergence
from throughline.experiment.analyses.fold import FoldAnalysis
from throughline.experiment.analyses.model_subject import ModelSource, open_subject
from throughline.experiment.analyses.run_subject import read_analyzed_run
from throughline.experiment.analyses.scoring import Say, Scoring
from throughline.experiment.analyses.sensitivity import rounds_varied, runs_varied
from throughline.experiment.analyses.settings import AnalyzeSettings, require_known
from throughline.experiment.analyses.subject import AnalyzedFold
from throughline.experiment.analyses.weights import Weights
from throughline.experiment.preparation import SCENES
from throughline.runs.folder import locked
from throughline.runs.reader import read_run


def analyze_run(folder: Path, settings: AnalyzeSettings, others: Sequence[Path] = (), say: Say = print) -> Analysis:
    """Measures what is not on disk yet and writes `analysis.json` into the run folder. Sensitivity is over the rounds
    of the run, and over the config keys in which the run and `others` differ.

    What is not asked for stays as it was in the file, if that was of as many images. Raises ThroughlineError for a
    folder that is no run or that another process works in, UsageError for an unknown analysis.
    """
    require_known(settings.what)
    analyzed = read_analyzed_run(folder, settings.images, settings.checkpoint)
    with locked(folder):
        before = _read_before(folder / FILE, say)
        settings = settings.with_limit_of(before)
        scoring = Scoring(analyzed.subject(), Weights(partial(analyzed.load, settings.device)), say)
        analysis = _measured(scoring, analyzed.folds, settings)
        if "sensitivity" in settings.what:
            runs = [analyzed.run, *map(read_run, others)]
            varied, lacking = runs_varied(runs) if others else ([], [])
            sensitivity = (*rounds_varied(analyzed.run), *varied)
            update = {"sensitivity": sensitivity, "missing": (*analysis.missing, *lacking)}
            analysis = analysis.model_copy(update=update)
        analysis = _kept_from(before, analysis, settings.what)
        write_analysis(folder / FILE, analysis)
    return analysis


def analyze_model(source: ModelSource, folder: Path, settings: AnalyzeSettings, say: Say = print) -> Analysis:
    """A model, fitted or plain, on the accepted chains of a journal; `analysis.json` goes to `folder`.

    There are no rounds and no held-out answers: conclusions and sensitivity are left out and noted. Of a plain
    checkpoint there is no before and after either.
    """
    require_known(settings.what)
    subject, fold, load = open_subject(source, folder)
    before = _read_before(folder / FILE, say)
    settings = settings.with_limit_of(before)
    analysis = _measured(Scoring(subject, Weights(load), say), [fold], settings)
    lacking = [
        Missing(what=name, why="a run folder has what it needs", analysis=name)
        for name in ("conclusions", "sensitivity")
        if name in settings.what
    ]
    analysis = analysis.model_copy(update={"missing": (*analysis.missing, *lacking)})
    analysis = _kept_from(before, analysis, settings.what)
    write_analysis(folder / FILE, analysis)
    return analysis


def _measured(scoring: Scoring, folds: Sequence[AnalyzedFold], settings: AnalyzeSettings) -> Analysis:
    """All but sensitivity, which needs whole runs."""
    subject = scoring.subject
    records: list[Fold] = []
    missing: list[Missing] = []
    for number, fold in enumerate(folds, start=1):
        place = f"fold {number} of {len(folds)}: " if len(folds) > 1 else ""
        of_fold = replace(scoring, say=partial(_say, scoring.say, place))
        analysis = FoldAnalysis(of_fold, fold, settings.images_at_most, settings.conclusions_of)
        records.append(analysis.measure(settings.what))
        missing += analysis.missing
    apart: tuple[Divergence, ...] = ()
    if "divergence" in settings.what:
        apart, lacking = measure_divergence(scoring, settings)
        missing += lacking
    return Analysis(
        dataset=subject.images.name,
        model=subject.model,
        drawn=(subject.images.root / SCENES).is_file(),
        limit=settings.images_at_most,
        conclusions_of=settings.conclusions_of,
        classes=subject.questions.classes,
        folds=tuple(records),
        divergence=apart,
        missing=tuple(missing),
    )


def _say(say: Say, place: str, line: str) -> None:
    say(f"{place}{line}")


def _read_before(path: Path, say: Say) -> Analysis | None:
    """What an earlier call measured; a file that cannot be read is written anew."""
    try:
        return read_analysis(path)
    except ThroughlineError as error:
        say(f"{error}: it is written anew")
        return None


def _kept_from(before: Analysis | None, analysis: Analysis, what: Sequence[str]) -> Analysis:
    """`analysis` with what was not asked for as it stood before, of folds with the same weights; of as many images,
    where their number matters."""
    if before is None or before.classes != analysis.classes:
        return analysis
    comparable = {"optimisation", "sensitivity"} if before.limit != analysis.limit else set(WHAT)
    kept = comparable - set(what)
    fields = [field for name in FIELDS if name in kept for field in FIELDS[name]]
    earlier = {(fold.targets, fold.seed, fold.states): fold for fold in before.folds}
    folds = []
    for fold in analysis.folds:
        same = earlier.get((fold.targets, fold.seed, fold.states))
        update = {} if same is None else {field: getattr(same, field) for field in fields}
        folds.append(fold.model_copy(update=update))
    whole: dict[str, object] = {name: getattr(before, name) for name in ("divergence", "sensitivity") if name in kept}
    if "conclusions" in kept:
        whole["conclusions_of"] = before.conclusions_of
    missing = dict.fromkeys((*(m for m in before.missing if m.analysis in kept), *analysis.missing))
    return analysis.model_copy(update={"folds": tuple(folds), "missing": tuple(missing), **whole})
