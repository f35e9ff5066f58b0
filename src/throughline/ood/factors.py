"""The factors of an out-of-distribution evaluation: what is varied in how a model is asked, as levels of a run config.

`cli.ood` puts them into a config; whatever reads the results knows by the same names what a level is.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.yaml_text import read_yaml
from throughline.domains.corruptions import CORRUPTIONS
from throughline.domains.views import View
from throughline.questions.wording import read_template

Levels = dict[str, dict[str, Any]]
"""The config keys that each level sets, by its name."""

VIEW, EXAMPLES = "view", "examples"
"""The names of the factors that have curves."""
CLEAN = "clean"
PAPER = """Given the image, answer the following question using the specified format.
Question: What is in this image?
Choice list:[{options}]
Please choose a choice from the list and respond with the following format:
---BEGIN FORMAT TEMPLATE---
Answer Choice: [Your Answer Choice Here]
---END FORMAT TEMPLATE---
Do not deviate from the above format. Repeat the format template for the answer."""
"""The zero-shot prompt of arXiv 2402.06599, by its released code; there the choices stand in quotes."""

CONTROLS: Mapping[str, Mapping[str, Any]] = {
    "target": {"domains": "target"},
    "sources": {"domains": "sources"},
    "nearest": {"domains": "target", "choice": "nearest"},
    "spread": {"domains": "target", "choice": "spread"},
    "shuffled": {"domains": "target", "labels": "shuffled"},
    "text": {"domains": "target", "pictures": False},
    "blank": {"domains": "target", "pictures": "blank"},
    "ordinal": {"domains": "target", "layout": "ordinal"},
    "knn": {"domains": "target", "vote": 1},
    "retrieval": {"domains": "target", "choice": "nearest", "vote": 1},
    "lora": {"domains": "target", "epochs": 30},
}
"""By name, what examples are: from the target domain or from others, nearest to the image or unlike one another; and
the controls: with labels that are not theirs, without their images or with grey ones, in another layout; the vote of
the nearest of them, the label of the nearest of all, and an adapter that is trained on them."""


def view_levels(kinds: Iterable[str], severities: Sequence[float], seed: int) -> Levels:
    """The images as they are, and as each view; `all` kinds are the 19 of ImageNet-C."""
    levels: Levels = {CLEAN: {}}
    for kind in CORRUPTIONS if "all" in (kinds := tuple(kinds)) else kinds:
        for severity in severities:
            view = View(kind, severity, seed)
            levels[view.name] = {"evaluation.view": {"kind": kind, "severity": severity, "seed": seed}}
    return levels


def example_kinds(
    names: Collection[str], shares: Iterable[str] = (), spurious: Iterable[float] = (), **settings: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """By name, what the kinds of examples set in `evaluation.examples`: those of `CONTROLS`, with `settings` of some;
    for label shift one for each of `shares`, as `cup=3,bowl=1`; and one for each strength of spurious correlation."""
    if unknown := [name for name in names if name not in CONTROLS]:
        raise ThroughlineError(f"no examples of kind {unknown[0]}", do=f"choose from {', '.join(CONTROLS)}")
    kinds: dict[str, Mapping[str, Any]] = {name: {**CONTROLS[name], **settings.get(name, {})} for name in names}
    for given in shares:
        parts = [part.partition("=") for part in given.split(",")]
        kinds[given] = {"domains": "target", "shares": {label.strip(): number for label, _, number in parts}}
    return kinds | {f"spurious {s:g}": {"domains": "sources", "spurious": s} for s in spurious}


def example_levels(shots: Sequence[int], kinds: Mapping[str, Mapping[str, Any]], draws: int, orders: int = 1) -> Levels:
    """No examples, and for each number of shots the examples of each kind, drawn so many times, in so many orders each;
    what is not drawn, the nearest, once, and what is not shown in one order."""
    levels: Levels = {}
    for count, (kind, keys) in itertools.product(shots, kinds.items()):
        shown = 1 if "vote" in keys or "epochs" in keys else orders
        for number in range(shown * (draws if keys.get("choice") != "nearest" else 1)):
            drawn = {"shots": count, **keys, "seed": number // shown, "order": number % shown}
            levels[f"{count} {kind} {number}" if count else "0"] = {"evaluation.examples": drawn} if count else {}
    return levels


def examples_of_level(level: str) -> tuple[str, int]:
    """Kind and number of the draw and order of a level of the factor `examples`; one of another name is a kind."""
    named = re.fullmatch(r"\d+ (.+) (\d+)", level)
    return (named[1], int(named[2])) if named else (level, 0)


def prompt_levels(names: Iterable[str]) -> Levels:
    """Wordings of the label question: `ours`, `paper`, text files with `{options}` in the place of the classes, and
    YAML files of wordings by name, whose keys are those of `questions` in a config; a lone text is the label. Where one
    has descriptions of classes, these are asked about in a further level. ThroughlineError for two of one name."""
    levels: Levels = {}

    def add(level: str, keys: Mapping[str, Any]) -> None:
        if level in levels:
            raise ThroughlineError(f"two wordings are called {level}", do="rename a file, or a wording in it")
        levels[level] = {**keys}

    for name in names:
        path = Path(name)
        if path.suffix in {".yaml", ".yml"}:
            for wording, given in read_yaml(path, "file of wordings").items():
                own = given if isinstance(given, dict) else {"label": given}
                keys = {f"questions.{key}": value for key, value in own.items()}
                add(str(wording), keys)
                if own.get("descriptions"):
                    add(f"{wording} described", {**keys, "evaluation.described": True})
        else:
            known = {"ours": {}, "paper": {"questions.label": PAPER}}
            add(path.stem, known[name] if name in known else {"questions.label": read_template(path)})
    return levels


def asking(prompts: Iterable[str], orders: Iterable[str]) -> dict[str, Levels]:
    """The factors of a question: its wording, and the options in the order of the class list or shuffled."""
    options: Levels = {order: {} if order == "fixed" else {"evaluation.options": order} for order in orders}
    return {"prompt": prompt_levels(prompts), "options": options}
