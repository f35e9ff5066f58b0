"""Our own side without one thing at a time: what `--ablate` puts among the rivals, so that every optimisation has a row
with what it is worth. Where a bench compares numbers before it starts its clock, it compares these, too.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from throughline.benchmarks.contenders import Contender, token_trees
from throughline.benchmarks.workload import Workload
from throughline.mllm.load import Mllm
from throughline.mllm.lora_linear import in_pefts_way
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

NODES: dict[str, Callable[[Any], AbstractContextManager[None]]] = {"LoRA in one node": in_pefts_way}
"""What takes a node of ours out of the model for a while."""


def without(name: str) -> str:
    """What the row's rival is called."""
    return f"without {name}"


def with_plan(mllm: Mllm, name: str) -> Mllm:
    """The same model, run by the plan that does without `name`."""
    return replace(mllm, plan=PLANS[name])


def workload_without(name: str, work: Workload) -> Workload:
    """The workload with the plan that does without `name`; as it is where `name` is a node of the model."""
    return replace(work, mllm=with_plan(work.mllm, name)) if name in PLANS else work


def node_left_out(name: str, model: Any) -> AbstractContextManager[None]:
    """The model without the node `name` for a while; as it is where `name` is something else."""
    return NODES[name](model) if name in NODES else nullcontext()


def training_without(name: str, work: Workload) -> Contender:
    """The step of `token_trees` without `name`."""
    contender = token_trees(workload_without(name, work), without(name))

    def take_step() -> None:
        with node_left_out(name, work.model):
            contender.take_step()

    def nll() -> dict[tuple[int, str], float]:
        with node_left_out(name, work.model):
            return contender.nll()

    return replace(contender, take_step=take_step, nll=nll)
