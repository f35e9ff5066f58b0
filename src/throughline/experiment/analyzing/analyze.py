"""An analysis from a run folder, or from any checkpoint and any chain journal, to `analysis.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from throughline.analysis.divergence import VERSION as DIVERGENCE_VERSION
from throughline.analysis.records import FILE, Analysis, Divergence, Fold, Missing, read_analysis
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, write_atomically
from throughline.domains.images import readable
from throughline.experiment.analyzing.domains_apart import domains_apart, of_each_domain
from throughline.experiment.analyzing.finished_units import read_finished_run
from throughline.experiment.analyzing.fold_analysis import FoldAnalysis
from throughline.experiment.analyzing.model_subject import ModelSource, open_subject
from throughline.experiment.analyzing.run_states import RunFold, read_analyzed_run
from throughline.experiment.analyzing.scored import SHARDS, Scoring
from throughline.experiment.analyzing.settings import FOLD_FIELDS, WHAT, AnalyzeSettings, require_known
from throughline.experiment.analyzing.varied import rounds_varied, runs_varied
from throughline.experiment.analyzing.weights import Weights
from throughline.experiment.preparation import SCENES
from throughline.mllm.checkpoints import fingerprint_checkpoint
from throughline.runs.folder import locked

Told = Callable[[str], None]


def analyze_run(folder: Path, settings: AnalyzeSettings, others: Sequence[Path] = (), told: Told = print) -> Analysis:
    """Measures what is not on disk yet and writes `analysis.json` into the run folder. Sensitivity is over the rounds
    of the run, and over the config keys in which the run and `others` differ.

    What is not asked for stays as it was in the file, if that was of as many images. Raises ThroughlineError for a
    folder that is no run or that another process works in, UsageError for an unknown analysis.
    """
    require_known(settings.what)
    run = read_analyzed_run(folder, settings.images, settings.checkpoint)
    with locked(folder):
        before = _read_before(folder / FILE, told)
        settings = settings.with_limit_of(before)
        scoring = Scoring(run.subject(), Weights(partial(run.load, settings.device)), told)
        found = _measured(scoring, run.folds, settings)
        if "sensitivity" in settings.what:
            finished = [read_finished_run(one) for one in (folder, *others)]
            more, lacking = runs_varied(finished) if others else ([], [])
            found = found.model_copy(
                update={
                    "sensitivity": (*rounds_varied(finished[0]), *more),
                    "missing": (*found.missing, *lacking),
                }
            )
        found = kept_from(before, found, settings.what)
        write_analysis(folder / FILE, found)
    return found


def analyze_model(source: ModelSource, folder: Path, settings: AnalyzeSettings, told: Told = print) -> Analysis:
    """A model, fitted or plain, on the accepted chains of a journal; `analysis.json` goes to `folder`.

    There are no rounds and no held-out answers: conclusions and sensitivity are left out and noted. Of a plain
    checkpoint there is no before and after either.
    """
    require_known(settings.what)
    subject, fold, load = open_subject(source, folder)
    before = _read_before(folder / FILE, told)
    settings = settings.with_limit_of(before)
    found = _measured(Scoring(subject, Weights(load), told), [fold], settings)
    lacking = [
        Missing(what=name, why="a run folder has what it needs", analysis=name)
        for name in ("conclusions", "sensitivity")
        if name in settings.what
    ]
    found = found.model_copy(update={"missing": (*found.missing, *lacking)})
    found = kept_from(before, found, settings.what)
    write_analysis(folder / FILE, found)
    return found


def _measured(scoring: Scoring, run_folds: Sequence[RunFold], settings: AnalyzeSettings) -> Analysis:
    """All but sensitivity, which needs whole runs."""
    subject = scoring.subject
    folds: list[Fold] = []
    missing: list[Missing] = []
    for number, fold in enumerate(run_folds, start=1):
        here = f"fold {number} of {len(run_folds)}: " if len(run_folds) > 1 else ""
        telling = replace(scoring, told=partial(_tell, scoring.told, here))
        one = FoldAnalysis(telling, fold, settings.images_at_most, settings.conclusions_of)
        folds.append(one.measure(settings.what))
        missing += one.missing
    apart: tuple[Divergence, ...] = ()
    if "divergence" in settings.what:
        apart, lacking = _divergence(scoring, settings)
        missing += lacking
    return Analysis(
        dataset=subject.images.name,
        model=subject.model,
        drawn=(subject.images.root / SCENES).is_file(),
        limit=settings.images_at_most,
        conclusions_of=settings.conclusions_of,
        classes=subject.questions.classes,
        folds=tuple(folds),
        divergence=apart,
        missing=tuple(missing),
    )


def _tell(told: Told, where: str, said: str) -> None:
    told(f"{where}{said}")


def _read_before(path: Path, told: Told) -> Analysis | None:
    """What an earlier call found; one that cannot be read is written anew."""
    try:
        return read_analysis(path)
    except ThroughlineError as error:
        told(f"{error}: it is written anew")
        return None


def kept_from(before: Analysis | None, found: Analysis, what: Sequence[str]) -> Analysis:
    """`found` with what was not asked for as it stood before, of folds with the same weights; of as many images, where
    their number matters."""
    if before is None or before.classes != found.classes:
        return found
    free = {"optimisation", "sensitivity"} if before.limit != found.limit else set(WHAT)
    old = {(fold.targets, fold.seed, fold.states): fold for fold in before.folds}
    folds = []
    for fold in found.folds:
        earlier = old.get((fold.targets, fold.seed, fold.states))
        names = [name for key, fields in FOLD_FIELDS.items() if key in free and key not in what for name in fields]
        kept = {} if earlier is None else {name: getattr(earlier, name) for name in names}
        folds.append(fold.model_copy(update=kept))
    whole = [name for name in ("divergence", "sensitivity") if name in free and name not in what]
    update: dict[str, object] = {name: getattr(before, name) for name in whole}
    if "conclusions" in free and "conclusions" not in what:
        update["conclusions_of"] = before.conclusions_of
    missing = tuple(one for one in before.missing if one.analysis in free and one.analysis not in what)
    return found.model_copy(
        update={"folds": tuple(folds), "missing": tuple(dict.fromkeys((*missing, *found.missing))), **update}
    )


def write_analysis(path: Path, analysis: Analysis) -> None:
    """Indented, so that two of them can be compared by eye."""
    write_atomically(path, analysis.model_dump_json(indent=1) + "\n")


def _divergence(scoring: Scoring, settings: AnalyzeSettings) -> tuple[tuple[Divergence, ...], list[Missing]]:
    subject = scoring.subject
    chosen, broken = readable(of_each_domain(subject.images.samples, subject.chains, settings.images_at_most))
    missing = [Missing(what=name, why=why, analysis="divergence") for name, why in broken.items()]
    inputs = {
        "version": DIVERGENCE_VERSION,
        "images": subject.images.fingerprint(),
        "checkpoint": subject.checkpoint,
        "chains": content_hash(dict(subject.chains)),
        "loading": list(subject.loading),
        "format": subject.questions.format.name,
        "classes": list(subject.questions.classes),
        "limit": settings.images_at_most,
        "clip": None if settings.clip is None else fingerprint_checkpoint(settings.clip),
    }
    path = subject.folder / SHARDS / f"divergence-{content_hash(inputs)[:12]}.json"
    if path.is_file():
        return _DIVERGENCES.validate_json(path.read_text()), missing
    scoring.told("divergence between domains")
    with scoring.weights.at(None) as mllm:
        found = tuple(domains_apart(scoring.scorer(mllm), chosen, subject.chains, settings.clip, settings.hub))
    write_atomically(path, _DIVERGENCES.dump_json(found))
    return found, missing


_DIVERGENCES = TypeAdapter(tuple[Divergence, ...])
