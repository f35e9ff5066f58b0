"""Our own side without one thing at a time: what `--ablate` puts among the rivals, so that every optimisation has a row
with what it is worth. Where a bench compares numbers before it starts its clock, it compares these, too.
"""

from dataclasses import replace

from throughline.benchmarks.contenders import Contender, token_trees
from throughline.benchmarks.workload import Workload
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan

PLANS: dict[str, Plan] = {
    "shared tokens": Plan("paths"),
    "packed rows": Plan("masked"),
    "logits in chunks": Plan(whole_logits=True),
    "layouts": Plan("masked"),  # masks for trees, and transformers' own cache, copied for every continuation
    "leaving": Plan(regrid=0.0),
    "packed weights": Plan(packed_weights=False),
}
"""The plan that does without a thing."""


def without(name: str) -> str:
    """What the row's rival is called."""
    return f"without {name}"


def with_plan(mllm: Mllm, name: str) -> Mllm:
    """The same model, run by the plan that does without `name`."""
    return replace(mllm, plan=PLANS[name])


def training_without(name: str, work: Workload, build_once: bool = False) -> Contender:
    """The step of `token_trees` without `name`: by its plan, or, for LoRA in one node, in peft's own layers. Its batch
    is built anew for every step, or once."""
    if name in PLANS:
        work = replace(work, mllm=with_plan(work.mllm, name))
    contender = token_trees(work, without(name), work.batch() if build_once else None)
    return contender if name in PLANS else contender.plainly()
