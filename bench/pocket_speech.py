"""The decoder of a pocket checkpoint: token trees, step after step, with the tower frozen first, then everything.

Shared by the makers of both pockets, which say what the trees teach.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from throughline.mllm.forward import TreeScores, score_trees
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Tree


@dataclass(frozen=True)
class Speech:
    """Steps and peak learning rate of both parts; `half` computes in bfloat16."""

    steps: int
    lr: float
    join_steps: int
    join_lr: float
    half: bool = False


class Beside(Protocol):
    """A loss beside that of the trees, with parameters of its own and measures of its parts."""

    measures: dict[str, float]

    def __call__(self) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def speak(
    mllm: Mllm,
    draw: Callable[[], list[Tree]],
    speech: Speech,
    report: Callable[[str], None],
    beside: Beside | None = None,
) -> None:
    """Trains projector and decoder on the trees that `draw` makes for each step, and on the loss beside them if there
    is one, then all parts at a low rate."""
    model = mllm.model
    model.model.language_model.requires_grad_(True)
    model.model.multi_modal_projector.requires_grad_(True)
    for name, steps, lr in (("speak", speech.steps, speech.lr), ("join", speech.join_steps, speech.join_lr)):
        if name == "join":
            model.model.vision_tower.requires_grad_(True)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        trained += list(beside.parameters()) if beside else []
        optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
        schedule = get_cosine_schedule_with_warmup(optimiser, max(1, steps // 20), steps)
        model.train()
        for step in range(1, steps + 1):
            trees = draw()
            with torch.autocast("cpu", torch.bfloat16, enabled=speech.half):
                scores = score_trees(model, mllm.collate([[tree] for tree in trees]))
                loss = scores.loss_sum() / len(trees) + (beside() if beside else 0.0)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            if step % 50 == 0:
                measures = [f"{part} {value:.3f}" for part, value in beside.measures.items()] if beside else []
                report(" ".join([f"{name} {step}/{steps} {mean_nll(scores)}", *measures]))
    model.eval().requires_grad_(False)


def mean_nll(scores: TreeScores) -> str:
    """The mean reduced NLL of each kind of branch, as text."""
    nll: dict[str, list[float]] = {}
    for value, kind in zip(scores.branch_nll().tolist(), scores.batch.names, strict=True):
        nll.setdefault(kind, []).append(value)
    return " ".join(f"{kind} {sum(values) / len(values):.3f}" for kind, values in nll.items())
