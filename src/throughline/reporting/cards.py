"""What a finished run and its analysis say in the cards of what was made on the same images: a final model, a dataset
of chains. Called by the verbs `fit` and `chains export`."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from throughline.analysis.divergence import divergence_table
from throughline.analysis.document import FILE, Analysis, read_analysis
from throughline.analysis.faithfulness import EXCHANGED, WHOLE, right_behind
from throughline.core.errors import ThroughlineError
from throughline.reporting.classes import class_table
from throughline.reporting.groups import groups
from throughline.reporting.tables import results_table
from throughline.reporting.text import to_markdown
from throughline.runs.order import ANSWER_ORDER, in_order
from throughline.runs.reader import Run, read_run

BESIDE = ("zero_shot", "cls")
"""Methods that are shown beside the model's own, where the run has them."""


def held_out_section(folder: Path, model: str, method: str, images: str) -> str:
    """Markdown for a model card: the accuracy of model and method on each domain while it was held out, their recall of
    each class, and what their answers hang on. `model` is called as in results; `images` is the fingerprint of the
    images that it was fitted on.

    Raises ThroughlineError for a run of other images, or without results of this model with the method.
    """
    run = read_run(folder)
    _require_same_images(run, images)
    for group in groups(run):
        lines = group.final.query("model == @model and method == @method and split == 'all'")
        if not lines.empty:
            break
    else:
        what = f"the run has no results of {method} with the checkpoint {model}"
        raise ThroughlineError(what, folder, "name a run that has, or fit what this one has")
    tables = []
    for answer in in_order(lines["answer"], ANSWER_ORDER):
        table = results_table(group, "all", answer)
        rows = tuple(row for row in table.rows if row[0] in (*BESIDE, method))
        tables.append(to_markdown(replace(table, title=f"{answer} path", rows=rows)))
        recalls = class_table(group, answer, (*BESIDE, method))
        if recalls is not None:
            summary = f"<summary>Recall by class, {answer} path</summary>"
            tables.append(f"<details>{summary}\n\n{to_markdown(recalls, with_title=False)}\n</details>")
    about = (
        "Accuracy on each domain of models that were trained on the other domains, by `throughline run` on the same "
        "images. It is an estimate for a domain that this model has not seen. This model was trained on all of them."
    )
    analysis = read_analysis(folder / FILE)
    hanging = _hanging_on(analysis, method) if analysis is not None and analysis.model == model else []
    return "\n\n".join(["## Held out", about, *tables, *hanging])


def chains_section(folder: Path, images: str) -> str:
    """Markdown for a dataset card: how foreign the chains are to the base, and how far apart domains are in them.

    Raises ThroughlineError for a run of other images, or one that was not analysed.
    """
    run = read_run(folder)
    _require_same_images(run, images)
    analysis = read_analysis(folder / FILE)
    if analysis is None:
        raise ThroughlineError("this run has no analysis", folder, f"throughline analyze {folder}")
    apart = divergence_table(analysis.divergence, analysis.scope)
    return "\n\n".join(["## Measured", *_foreign(analysis), *([to_markdown(apart)] if apart.rows else [])])


def _require_same_images(run: Run, images: str) -> None:
    seen = {str(unit.unit.inputs.get("images")) for unit in run.units.values()}
    if seen != {images}:
        raise ThroughlineError("this run used other images", run.folder, "name a run of the same images")


def _hanging_on(analysis: Analysis, method: str) -> list[str]:
    """Whether the conclusion follows the image and the chain, in the mean over folds."""
    measured = analysis.of_folds("variants")
    whole = right_behind(measured, method, WHOLE)
    falls = [(name, right_behind(measured, method, name)) for name in EXCHANGED]
    if whole is None:
        return []
    said = "; ".join(f"with {name} {100 * value:.0f} %" for name, value in falls if value is not None)
    about = "Right conclusions on held-out images with a well-formed chain"
    return [f"{about}: {100 * whole:.0f} % with own image and chain; {said}."]


def _foreign(analysis: Analysis) -> list[str]:
    base = [line for fold in analysis.folds for line in fold.mismatch if line.state.method is None]
    by_source = {source: [x.perplexity.mean for x in base if x.source == source] for source in ("teacher", "self")}
    if not by_source["teacher"]:
        return []
    own = f"; on chains of its own {np.mean(by_source['self']):.2f}" if by_source["self"] else ""
    teacher = f"{np.mean(by_source['teacher']):.2f}"
    return [f"Perplexity of {analysis.model}, untrained, on these chains: {teacher}{own}."]
