"""Reinforcement fine-tuning as a row beside counterfactual preference: GRPO by TRL's trainer, on some of the images.

A method of a user's (docs/howto/method.md), named in a config as `bench/grpo.py:GRPO`; its predictions, tables and
robustness are therefore those of every other method. It goes on from `mtct`. The model writes some chains about an
image; one that concludes in the image's class has the reward 1, any other chain or text 0. The source reports that its
authors' GRPO ended in "reward collapse" (arXiv 2505.13081, section 3.1); numbers of steps and images are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from throughline.chains.parsing import parse_chain
from throughline.core.files import write_json_lines
from throughline.domains.samples import Sample, balanced
from throughline.runs.folder import ADAPTER
from throughline.runs.records import TrainingLine
from throughline.training.methods import BOTH, CHAINS, Method
from throughline.training.objectives import MarkedPaths
from throughline.training.stages.context import StageContext, StageResult, Trained, is_whole, mark_whole, save_stage
from throughline.training.stages.sft import Sft

REWARDS = "rewards.jsonl"
"""In the stage's folder: the mean reward of each step."""


@dataclass(frozen=True)
class GrpoStage:
    """`steps` optimiser steps of `prompts` images with `generations` chains each."""

    steps: int = 40
    prompts: int = 4
    generations: int = 4
    per_class: int = 10
    """Images of each class and source domain."""
    objective: MarkedPaths = CHAINS
    """What answers are asked for; what is minimised is TRL's."""
    needs_chains = False
    steps_like = None

    def run(self, context: StageContext) -> StageResult:
        """Trains from the stage before. ThroughlineError where TRL is not installed."""
        from throughline.benchmarks.trl import quiet, require_trl
        from throughline.mllm.lora import load_adapter

        if is_whole(context.folder):
            return StageResult(load_adapter(context.mllm.model, context.folder / ADAPTER))
        samples = balanced(context.samples, self.per_class, context.seed)
        trl, model = require_trl(), context.open_adapter()
        with quiet():
            trainer = self._trainer(trl, context, model, samples)
            seconds = trainer.train().metrics["train_runtime"]
        logged = [log for log in trainer.state.log_history if "reward" in log]
        write_json_lines(context.folder / REWARDS, [{"step": log["step"], "reward": log["reward"]} for log in logged])
        lines = [
            TrainingLine("grpo", 0, log["step"], log["epoch"], log["loss"], lr=log["learning_rate"]) for log in logged
        ]
        save_stage(context.folder, model, lines)
        moved = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        steps = trainer.state.global_step
        trained = Trained(steps, moved, steps * self.prompts, seconds)
        mark_whole(context.start, context.folder, trained, [(sample, None) for sample in samples])
        return StageResult(model)

    def _trainer(self, trl: Any, context: StageContext, model: Any, samples: Sequence[Sample]) -> Any:
        sampling = context.settings.self_labelling
        config = trl.GRPOConfig(
            output_dir=str(context.folder / "trl"),
            per_device_train_batch_size=self.prompts * self.generations,
            num_generations=self.generations,
            max_steps=self.steps,
            learning_rate=context.settings.stage.lr,
            max_completion_length=sampling.max_new_tokens,
            temperature=sampling.temperature,
            bf16=False,
            use_cpu=context.mllm.device.type == "cpu",
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            seed=context.stage_seed() % 2**32,
        )
        return trl.GRPOTrainer(
            model=model,
            reward_funcs=self._reward(context),
            args=config,
            train_dataset=_dataset(context, samples),
            processing_class=context.mllm.chat.processor,
        )

    def _reward(self, context: StageContext) -> Any:
        asked = context.questions

        def concludes_in_truth(completions: list[Any], label: list[str], **_: Any) -> list[float]:
            texts = (said[0]["content"] for said in completions)
            parsed = (parse_chain(text, asked.format, asked.classes, aliases=asked.names) for text in texts)
            return [float(chain.label == truth) for chain, truth in zip(parsed, label, strict=True)]

        return concludes_in_truth


def _dataset(context: StageContext, samples: Sequence[Sample]) -> Any:
    import datasets

    from throughline.domains.views import load_sample

    question = [{"role": "user", "content": context.questions.reasoning}]
    rows = [{"prompt": question, "image": load_sample(sample), "label": sample.label} for sample in samples]
    return datasets.Dataset.from_list(rows)


GRPO = Method("grpo", (Sft(BOTH), GrpoStage()), "as mtct, then rewards for chains that conclude rightly (TRL's GRPO)")
