"""The factors of an out-of-distribution evaluation: what is varied in how a model is asked, as levels of a run config.

`cli.ood` puts them into a config; whatever reads the results knows by the same names what a level is.
"""

from collections.abc import Iterable, Mapping, Sequence
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
    "ordinal": {"domains": "target", "layout": "ordinal"},
}
"""By name, what examples are: from the target domain or from others, nearest to the image or unlike one another; and
the controls: with labels that are not theirs, without their images, in another layout."""


def view_levels(kinds: Iterable[str], severities: Sequence[float], seed: int) -> Levels:
    """The images as they are, and as each view; `all` kinds are the 19 of ImageNet-C."""
    levels: Levels = {CLEAN: {}}
    for kind in CORRUPTIONS if "all" in (kinds := tuple(kinds)) else kinds:
        for severity in severities:
            view = View(kind, severity, seed)
            levels[view.name] = {"evaluation.view": {"kind": kind, "severity": severity, "seed": seed}}
    return levels


def view_of_level(level: str) -> tuple[str, float]:
    """The kind and the severity of a level of the factor `view`; severity 0 for the images as they are."""
    kind, _, severity = level.rpartition("-")
    return (kind, float(severity)) if kind else (level, 0.0)


def example_levels(shots: Sequence[int], kinds: Iterable[str], draws: int) -> Levels:
    """No examples, and for each number of shots the examples of each kind of `CONTROLS`, drawn so many times; what is
    not drawn, the nearest, once."""
    levels: Levels = {}
    for count in shots:
        for kind in kinds:
            if kind not in CONTROLS:
                raise ThroughlineError(f"no examples of kind {kind}", do=f"choose from {', '.join(CONTROLS)}")
            for draw in range(draws if CONTROLS[kind].get("choice") != "nearest" else 1):
                keys = {"shots": count, **CONTROLS[kind], "seed": draw}
                levels[f"{count} {kind} {draw}" if count else "0"] = {"evaluation.examples": keys} if count else {}
    return levels


def examples_of_level(level: str) -> tuple[int, str, int]:
    """Shots, kind and number of the draw of a level of the factor `examples`."""
    count, _, rest = level.partition(" ")
    kind, _, draw = rest.partition(" ")
    return int(count), kind, int(draw or 0)


def prompt_levels(names: Iterable[str]) -> Levels:
    """Wordings of the label question: `ours`, `paper`, text files with `{options}` in the place of the classes, and
    YAML files of wordings by name, whose keys are those of `questions` in a config. Where one has descriptions of
    classes, these are asked about in a further level."""
    levels: Levels = {}
    for name in names:
        path = Path(name)
        if path.suffix in {".yaml", ".yml"}:
            for wording, given in read_yaml(path, "file of wordings").items():
                if not isinstance(given, dict):
                    do = "write under it frame, descriptions or label"
                    raise ThroughlineError(f"the wording {wording} is not a mapping of keys to values", path, do)
                keys = {f"questions.{key}": value for key, value in given.items()}
                levels[str(wording)] = keys
                if given.get("descriptions"):
                    levels[f"{wording} described"] = {**keys, "evaluation.described": True}
        else:
            known = {"ours": {}, "paper": {"questions.label": PAPER}}
            levels[path.stem] = known[name] if name in known else {"questions.label": read_template(path)}
    return levels


def option_levels(orders: Iterable[str]) -> Levels:
    """The options in the order of the class list, `fixed`, or `shuffled` for each image."""
    return {order: {} if order == "fixed" else {"evaluation.options": order} for order in orders}
