"""Our own side without one thing at a time: what `--ablate` puts among the rivals, so that every optimisation has a row
with what it is worth. Where a bench compares numbers before it starts its clock, it compares these, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from throughline.benchmarks.contenders import Contender, token_trees
from throughline.benchmarks.workload import Workload
from throughline.core.errors import UsageError
from throughline.mllm.load import Mllm
from throughline.mllm.lora_linear import in_pefts_way
from throughline.mllm.plan import Plan
from throughline.mllm.rms_norm import in_own_way

TREE_PLANS: dict[str, Plan] = {
    "shared tokens": Plan("paths"),
    "packed rows": Plan("masked"),
    "logits in chunks": Plan(whole_logits=True),
}
NODES: dict[str, Callable[[Any], AbstractContextManager[None]]] = {
    "LoRA in one node": in_pefts_way,
    "norms in one node": in_own_way,
}
CONTINUATION_PLANS: dict[str, Plan] = {
    "layouts": Plan("masked"),  # masks for trees, and transformers' own cache, copied for every continuation
    "leaving": Plan(regrid=0.0),
    "packed weights": Plan(packed_weights=False),
}
TOGETHER = "asking together"

TRAINING = (*TREE_PLANS, *NODES)
SCORING = ("layouts",)
SAMPLING = tuple(CONTINUATION_PLANS)
EVALUATING = ("layouts", "leaving", TOGETHER)  # the pocket has no weight that is worth packing
"""What each bench can do without."""


def chosen(asked: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """The ablations named, `all` for every one. Raises UsageError for one that the bench does not know."""
    names, all_of_them = tuple(asked), tuple(known)
    unknown = [name for name in names if name != "all" and name not in all_of_them]
    if unknown:
        raise UsageError(f"nothing here is called {unknown[0]!r}", do=f"choose from {', '.join(all_of_them)}, or all")
    return all_of_them if "all" in names else names


def without(name: str) -> str:
    """What the row's rival is called."""
    return f"without {name}"


def with_plan(mllm: Mllm, name: str) -> Mllm:
    """The same model, run by the plan that does without `name`."""
    return replace(mllm, plan=(TREE_PLANS | CONTINUATION_PLANS)[name])


def training_without(name: str, mllm: Mllm, model: Any, work: Workload) -> Contender:
    """The step of `token_trees` without `name`, one of `TRAINING`."""
    if name in TREE_PLANS:
        return token_trees(with_plan(mllm, name), model, work, without(name))
    whole = token_trees(mllm, model, work, without(name))

    def within(run: Callable[[], Any]) -> Callable[[], Any]:
        def inside() -> Any:
            with NODES[name](model):
                return run()

        return inside

    return replace(whole, take_step=within(whole.take_step), nll=within(whole.nll))
