"""The certificate as tables: accuracies per style, then every condition with its bar. Called by `documents.py`."""

from pathlib import Path
from typing import Any

import numpy as np

from records import Certificate, Style, read_record
from throughline.core.errors import ThroughlineError
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import mean_and_error
from throughline.reporting.tables import percent
from throughline.reporting.text import to_markdown

NOT_MEASURED = "*Not measured yet.*"


def certificate(evidence: Path) -> str:
    """Accuracies per style, then every condition with its bar."""
    path = evidence / "certificate.json"
    found = read_record(path, Certificate)
    if found is None:
        return NOT_MEASURED
    try:
        styles, conditions = _styles_table(found), _conditions_table(found)
    except (KeyError, TypeError, ValueError) as error:
        raise ThroughlineError(f"the certificate lacks or misstates {error}", path) from error
    verdict = "**The certificate holds.**" if found.holds else "**The certificate does not hold.**"
    return "\n".join([verdict, "", to_markdown(styles, with_title=False), to_markdown(conditions, with_title=False)])


def _styles_table(found: Certificate) -> Table:
    def row(name: str, style: Style) -> tuple[str, ...]:
        spread = [
            percent(mean_and_error([one.likelihood for one in part])) for part in (style.held_out, style.included)
        ]
        unparsed = np.mean([one.label_path_unparsed for one in style.held_out])
        zero = (f"{100 * style.zero_shot.likelihood:.1f}", f"{100 * style.zero_shot.label_path_unparsed:.1f}")
        return (name, zero[0], *spread, zero[1], f"{100 * unparsed:.1f}")

    means = [f"{100 * found.means[name]:.1f}" for name in ("zero_shot", "held_out", "included")]
    budget = found.budget
    return Table(
        title="certificate",
        columns=(
            "style",
            "zero-shot",
            "cls, held out",
            "cls, style among the sources",
            "unparsed, zero-shot",
            "unparsed, cls held out",
        ),
        rows=(*(row(name, style) for name, style in found.per_target.items()), ("Avg", *means, "", "")),
        notes=(
            f"Accuracy in percent by label likelihood, mean ± standard error over {len(budget['seeds'])} seeds. "
            "Unparsed: share of label-path answers that name no class.",
            f"Budget, fixed before anything was measured: {budget['images_held_out']} images per class and style "
            f"from three styles, or {budget['images_included']} from four; {budget['epochs']} epochs, batch "
            f"{budget['batch']}, lr {budget['lr']:g}; {budget['test_images']} test images per class and style.",
            DRAWN_NOTE,
        ),
    )


def _conditions_table(found: Certificate) -> Table:
    bars, means = found.bars, found.means
    zero = [style.zero_shot.likelihood for style in found.per_target.values()]
    low, high = bars["zero_shot"]
    above_chance = found.background["accuracy"] - found.background["chance"]
    rows = {
        "zero_shot_per_style": (
            "zero-shot, every style",
            f"{100 * low:.0f} to {100 * high:.0f} %",
            f"{100 * min(zero):.1f} to {100 * max(zero):.1f} %",
        ),
        "cls_gains_held_out": (
            "gain of cls on the held-out style",
            f"at least {100 * bars['gain']:.0f} points",
            f"{100 * (means['held_out'] - means['zero_shot']):+.1f} points",
        ),
        "included_is_learnable": (
            "cls with the style among the sources",
            f"at least {100 * bars['included']:.0f} %",
            f"{100 * means['included']:.1f} %",
        ),
        "gap_to_close": (
            "gap between style among the sources and style held out",
            f"at least {100 * bars['gap']:.0f} points",
            f"{100 * (means['included'] - means['held_out']):+.1f} points",
        ),
        "background_tells_nothing": (
            "linear classifier on background colours",
            f"at most {100 * bars['background']:.0f} points above chance",
            f"{100 * above_chance:+.1f} points",
        ),
        "pairs_can_be_seen": (
            "pixel classifier on counterfactual pairs, lowest of all kinds",
            f"at least {100 * bars['pairs']:.0f} %",
            f"{100 * found.pairs['lowest']:.1f} %",
        ),
        "wordings_differ": (
            "base's perplexity on the describer's chains, relative to its own chains",
            f"at least {bars['perplexity_ratio']:.1f} times",
            f"{found.perplexity['ratio']:.2f} times",
        ),
    }
    if found.reasoning is not None:
        rows |= _reasoning_rows(found.reasoning, bars)
    if set(rows) != set(found.checks):
        raise ValueError(f"the conditions {', '.join(sorted(set(rows) ^ set(found.checks)))}")
    cells = tuple((*row, "yes" if found.checks[name] else "no") for name, row in rows.items())
    return Table("conditions", ("condition", "bar", "measured", "met"), cells)


def _reasoning_rows(measured: dict[str, dict[str, Any]], bars: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """The conditions on the base's reasoning."""
    chains, own, parts, examples = (measured[name] for name in ("chains", "own_chains", "parts", "examples"))
    low, high = bars["accepted"]
    shares = list(own["by_fold"].values())

    def points(interval: list[float]) -> str:
        mean, lowest, highest = (100 * value for value in interval)
        return f"{mean:+.1f} points, {lowest:+.1f} to {highest:+.1f}"

    return {
        "true_chain_helps": (
            "probability of the class behind a true chain of the teacher, above that of the label question",
            f"at least {100 * bars['chain_gain']:.0f} points",
            f"{100 * (chains['behind_true'] - chains['without']):+.1f} points",
        ),
        "another_chain_is_followed": (
            "another scene's chain is followed to its class",
            f"at least {100 * bars['followed']:.0f} %",
            f"{100 * chains['followed']:.1f} %",
        ),
        "own_chain_decides": (
            "another conclusion behind the model's own chain about another image",
            f"at least {100 * bars['otherwise']:.0f} %",
            f"{100 * own['otherwise']:.1f} %",
        ),
        "own_chains_need_rejection": (
            "own chains accepted on source images, every fold",
            f"{100 * low:.0f} to {100 * high:.0f} %",
            f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %",
        ),
        "parts_better_than_chance": (
            "parts named on held-out styles (F1), above the same answers for other images",
            "interval above 0",
            points(parts["above_chance"]),
        ),
        "parts_worse_than_auxiliary": (
            "parts named on auxiliary styles, above held-out styles",
            "interval above 0",
            points(parts["auxiliary_above_held_out"]),
        ),
        "examples_are_used": (
            "four labelled examples, above the same with shuffled labels",
            "interval above 0",
            points(examples["gain"]),
        ),
    }
