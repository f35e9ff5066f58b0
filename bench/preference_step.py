"""A step of counterfactual preference on thinking pairs, forward and backward, against TRL's `DPOTrainer`: with the
reference scores computed in every step on both sides, and with them cached.

    python bench/preference_step.py --geometry pocket --json

A pair is two chains about one image: here two branches of a token tree, there two rows with the image in each. For
images TRL refuses to compute reference scores beforehand; as a rival with a cache it is given them, and ours with a
cache is also timed against TRL as it is. All sides have the same frozen weights, the same adapter and the adapter
switched off as the reference; their losses are compared before anything is timed.
"""

import importlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import PositiveInt
from torch import Tensor

from bench_script import run_bench
from throughline.benchmarks.contenders import Contender, MicroBatch
from throughline.benchmarks.settings import BenchSettings, Geometries, Sizes
from throughline.benchmarks.step import measure_workload
from throughline.benchmarks.timing import BenchRow, OnProgress, on_threads
from throughline.benchmarks.trl import processor_of, quiet, require_trl, same_weights
from throughline.benchmarks.workload import LORA, Workload, training_workloads
from throughline.mllm.chat import user_turn
from throughline.mllm.flops import Row, row_of, step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.lora import base_of
from throughline.mllm.tree import Tree
from throughline.training.objectives import Preference
from throughline.training.paths import Example, PathRenderer

OBJECTIVE = Preference()
TRL, TRL_GIVEN = "TRL DPOTrainer", "TRL DPOTrainer, given the reference scores"


class PreferenceStepSettings(BenchSettings):
    """Time of a preference step on thinking pairs, with and without cached reference scores, compared with TRL's
    DPOTrainer."""

    geometry: Geometries = ("pocket",)
    """Model shapes (random weights): pocket, bench-40m or bench-40m-151k."""
    classes: Sizes = (7,)
    """Number of classes in the question: 5, 7, 10, 65 or 345."""
    batch: PositiveInt = 4
    """Pairs per step."""
    trials: PositiveInt = 5
    """Timed steps per variant."""


def measure(settings: PreferenceStepSettings, on_progress: OnProgress) -> list[BenchRow]:
    """Three rows for every geometry and class list. Raises ThroughlineError where TRL is not installed, and when two
    sides disagree on the loss, before they are timed."""
    require_trl()
    rows = []
    with on_threads(settings.threads):
        for more in training_workloads(settings.geometry, settings.classes, (1,), lambda *_: settings.batch + 1):
            pairs = [replace(own, rejected=replace(own, chain=other.chain)) for own, other in pairwise(more.examples)]
            work = replace(more, examples=tuple(pairs), settings={**more.settings, "batch": len(pairs)})
            name = f"preference step {work.settings['geometry']}, {work.settings['classes']} classes"
            on_progress(name)
            both = [("reference in every step", [False], False), ("reference cached", [True, False], True)]
            for how, given, cached in both:
                rivals = [dpo_trainer(work, own) for own in given]
                rows += measure_workload(f"{name}, {how}", work, pair_trees(work, cached), rivals, settings.trials)
    return rows


def pair_trees(work: Workload, cached: bool) -> Contender:
    """The pairs as training runs them: trees are built in every step; reference scores as well, unless `cached`."""
    model, renderer = work.model, PathRenderer(work.mllm.chat, work.questions)

    def trees() -> list[Tree]:
        return [OBJECTIVE.tree(renderer, pair) for pair in work.examples]

    @torch.no_grad()
    def references(of: Sequence[Tree]) -> list[list[float]]:
        with model.disable_adapter():
            nll = score_trees(model, work.mllm.collate([[tree] for tree in of])).branch_nll().tolist()
        return [nll[place : place + 2] for place in range(0, len(nll), 2)]

    kept = references(trees()) if cached else None

    def loss() -> Tensor:
        of = trees()
        given = zip(of, kept or references(of), strict=True)
        batch = work.mllm.collate([[tree.with_references(scores)] for tree, scores in given])
        return OBJECTIVE.loss(score_trees(model, batch)) / len(of)

    rows = [row_of(tree) for tree in trees()]
    again = 0 if cached else step_flops(model, rows).forward
    name = f"token trees, reference {'cached' if cached else 'in every step'}"
    parts = [MicroBatch(lambda: torch.autograd.backward(loss()), {})]
    shapes = [(1, row.tokens) for row in rows]
    return Contender(name, model, parts, lambda: {(0, "loss"): float(loss())}, rows, shapes, {}, again)


def dpo_trainer(work: Workload, given: bool) -> Contender:
    """TRL's trainer on the same pairs in one batch, made by its own collator; `given` puts the reference scores into
    it."""
    trl, datasets, chat, pairs = require_trl(), importlib.import_module("datasets"), work.mllm.chat, work.examples
    asked = chat.processor.apply_chat_template(
        user_turn(work.questions.reasoning), tokenize=False, add_generation_prompt=True
    )
    with tempfile.TemporaryDirectory() as folder, quiet():
        config = trl.DPOConfig(
            output_dir=folder,
            beta=OBJECTIVE.settings.beta,
            per_device_train_batch_size=len(pairs),
            max_length=None,
            bf16=False,
            use_cpu=base_of(work.model).device.type == "cpu",
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
        )
        lora = LoraConfig(
            r=LORA.rank,
            lora_alpha=LORA.alpha,
            lora_dropout=LORA.dropout,
            target_modules=list(work.model.targeted_module_names),
        )
        trainer = trl.DPOTrainer(
            model=same_weights(work.model),
            args=config,
            train_dataset=datasets.Dataset.from_list(
                [_row(asked, chat.end_of_turn, *pair) for pair in zip(pairs, work.pictures, strict=False)]
            ),
            processing_class=processor_of(work),
            peft_config=lora,
        )
        set_peft_model_state_dict(trainer.model, get_peft_model_state_dict(work.model))
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.current_gradient_accumulation_steps = 1  # which `train` would set
    if given:
        with torch.no_grad(), quiet():
            scores = trainer.compute_ref_log_probs(trainer.model, batch)
        batch |= dict(zip(("ref_chosen_logps", "ref_rejected_logps"), scores, strict=True))
        trainer.precompute_ref_logps = True

    def loss() -> float:
        with quiet():
            return float(trainer.compute_loss(trainer.model, dict(batch)))

    count, tokens = batch["input_ids"].shape
    tiles, head = len(batch["pixel_values"]) // count, base_of(trainer.model).get_output_embeddings().weight
    rows = [Row(tokens, tiles, tokens - 1)] * count
    anew = 2 * sum(row.marked for row in rows) * head.numel()  # TRL's head keeps no logits
    again = 0 if given else step_flops(trainer.model, rows).forward
    details: dict[str, Any] = {"lora": "peft's layers", "trl": str(trl.__version__)}
    details["padding"] = count * tokens - int(batch["attention_mask"].sum())
    parts = [MicroBatch(lambda: trainer.training_step(trainer.model, dict(batch)), batch)]
    name = TRL_GIVEN if given else TRL
    losses = lambda: {(0, "loss"): loss()}  # noqa: E731
    return Contender(name, trainer.model, parts, losses, rows, [(count, tokens)], details, anew + again)


def _row(prompt: str, end: str, pair: Example, picture: Any) -> dict[str, Any]:
    assert pair.chain is not None and pair.rejected is not None and pair.rejected.chain is not None
    return {"prompt": prompt, "chosen": pair.chain + end, "rejected": pair.rejected.chain + end, "images": [picture]}


if __name__ == "__main__":
    sys.exit(run_bench(PreferenceStepSettings, measure))
