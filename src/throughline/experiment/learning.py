"""One unit's learning: the first stage on labels and a teacher's chains, or rounds on the model's own chains.

`execution` measures what is learnt here on the held-out target; `fitting` keeps it as the final model, where nothing is
held out and nothing measured. Stages and rounds that are whole in the unit's folder are not run again, so that a killed
unit goes on where it was and ends with the same adapter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json, write_json_lines
from throughline.core.seeding import seed_of
from throughline.domains.samples import ImageSet, Sample
from throughline.evaluation.folds import Fold, keep_all
from throughline.evaluation.selection import Candidate, select_best
from throughline.experiment.config import RunConfig
from throughline.experiment.folder import PIXELS, STAGE, stage_steps, unit_folder
from throughline.experiment.preparation import read_all_chains, read_chains
from throughline.experiment.units import Unit
from throughline.mllm.constraints import constraint_of
from throughline.mllm.devices import pick_device
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import adapter_fingerprint, add_lora, load_adapter, save_adapter
from throughline.mllm.pixel_cache import PixelCache, processor_settings
from throughline.mllm.tree import Tree
from throughline.questions.sampler import InProcessSampler, Sampler
from throughline.questions.wording import class_name
from throughline.training.checks import output_probe
from throughline.training.methods import METHODS
from throughline.training.objectives import Example, sample_tree
from throughline.training.rounds import RoundPlan, self_label
from throughline.training.trainer import LossLine, TreeDataset, forget_checkpoints, train_stage

Told = Callable[[str], None]

Taught = tuple[Sample, str | None]
"""An image that is trained on, and the chain that goes with it."""


def learn(unit: Unit, config: RunConfig, images: ImageSet, run_folder: Path, told: Told) -> None:
    """An executor of units that hold nothing out: learns from all images and leaves no results (`fitting`)."""
    learning = Learning(unit, config, keep_all(images), images.classes, run_folder, told)
    learning.run(lambda number, folder: None)
    write_json(learning.folder / "metrics.json", {"results": []})


class Learning:
    """A loaded base, its questions and the samples it learns from; `run` leaves the adapter in the unit's folder."""

    def __init__(
        self, unit: Unit, config: RunConfig, fold: Fold, classes: Sequence[str], run_folder: Path, told: Told
    ) -> None:
        self.unit, self.config, self.fold, self.told = unit, config, fold, told
        self.run_folder, self.folder = run_folder, unit_folder(run_folder, unit)
        self.method = METHODS[unit.method]
        self.questions = config.question_set(classes)
        model = config.model
        self.mllm: Mllm = load_mllm(
            model.checkpoint,
            tiles=model.tiles,
            dtype=model.dtype,
            device=pick_device(model.device),
            hub=model.hub,
            quantization=model.quantization,
            attention=model.attention,
        )
        room, settings = int(config.data.cache_gb * 1e9), processor_settings(self.mllm.chat)
        cache = PixelCache(run_folder / PIXELS, room, settings) if room else None
        self.reader = ImageReader(self.mllm.chat, cache=cache)
        self.final_round: int | None = None
        """After `run`: the round whose weights are the unit's; None when there was none, or another was selected."""

    def run(self, after_round: Callable[[int, Path], None]) -> None:
        """All training of the method, none for `zero_shot`. `after_round(number, folder)` is called with the round's
        weights in place, before the round counts as whole."""
        if self.method.self_labelled:
            self._rounds(after_round)
        elif self.method.trains:
            self._first_stage()

    def counted(self, what: str, of: str) -> Callable[[int, int], None]:
        """Progress of a loop as a line, e.g. `label: 32/300 images`."""
        return lambda done, total: self.told(f"{what}: {done}/{total} {of}")

    def _first_stage(self) -> None:
        """Labels, teacher's chains or both, from the base."""
        examples: list[Taught] = [(one, None) for one in self.fold.train]
        if self.method.needs_chains:
            chains = read_all_chains(self.run_folder)
            examples = [(one, text) for one in self.fold.train for text in chains.get(one.id, ())]
        if not examples:
            raise ThroughlineError("no source image has an accepted chain", self.unit.slug, "build more chains")
        steps = self._steps_of(self.unit.steps_like) if self.unit.steps_like else None
        if (self.folder / STAGE).is_file():
            self.model = load_adapter(self.mllm.model, self.folder / "adapter")
        else:
            self.model = add_lora(self.mllm.model, self.config.model.lora, seed_of(self.unit.seed, "lora") % 2**32)
            taken, lines = self._train(examples, 0, self.folder, steps)
            write_json_lines(self.folder / "training.jsonl", lines)
            save_adapter(self.model, self.folder / "adapter")
            write_json(self.folder / STAGE, {"optimiser_steps": taken, "cumulative_steps": taken})
        forget_checkpoints(self.folder)

    def _rounds(self, after_round: Callable[[int, Path], None]) -> None:
        """Self-labelling from the parent's adapter; θ carries on from round to round."""
        assert self.unit.starts_from is not None
        parent = unit_folder(self.run_folder, self.unit.starts_from)
        total = self.config.training.rounds
        whole = [r for r in range(1, total + 1) if (self.folder / f"round-{r}" / STAGE).is_file()]
        start = self.folder / f"round-{max(whole)}" if whole else parent
        self.model = load_adapter(self.mllm.model, start / "adapter", trainable=True)
        kept = read_chains(self.run_folder) if self.config.training.rejected == "keep_last" else {}
        steps = self._steps_of(self.unit.starts_from)
        candidates = [Candidate("start", parent / "adapter")]
        for number in range(1, total + 1):
            folder = self.folder / f"round-{number}"
            if number not in whole:
                kept = self._round(number, folder, kept, after_round)
            elif (folder / "accepted.jsonl").is_file():
                kept = {row["sample_id"]: row["text"] for row in read_json_lines(folder / "accepted.jsonl")}
            forget_checkpoints(folder)
            steps += int(_read_object(folder / STAGE)["optimiser_steps"])
            candidates.append(Candidate(f"round {number}", folder / "adapter"))
        self._collect_rounds(total)
        if self.config.evaluation.selection == "validation":
            self._select(candidates)
        else:
            self.final_round = total
        save_adapter(self.model, self.folder / "adapter")
        own = steps - self._steps_of(self.unit.starts_from)
        write_json(self.folder / STAGE, {"optimiser_steps": own, "cumulative_steps": steps})

    def _round(
        self, number: int, folder: Path, kept: Mapping[str, str], after_round: Callable[[int, Path], None]
    ) -> dict[str, str]:
        """Samples, keeps what concludes in the truth, trains on it, checks that the output moved."""
        training = self.config.training
        before = adapter_fingerprint(self.model)
        plan = RoundPlan(
            samples=self.fold.train,
            prompts=self.questions,
            classes=self.questions.classes,
            format=self.questions.format,
            sampling=training.self_labelling,
            batch=self.config.evaluation.answering.batch,
            seed=self.unit.seed,
            round=number,
        )
        result = self_label(
            self._sampler(folder),
            plan,
            folder / "journal-0.jsonl",
            before,
            told=self.counted(f"round {number}", "chains"),
        )
        chains = dict(result.accepted) if training.rejected == "drop" else {**kept, **result.accepted}
        examples: list[Taught] = [(s, chains[s.id]) for s in self.fold.train if s.id in chains]
        probe = output_probe(self.mllm, self.fold.train, self.questions, self.reader)
        taken, lines = self._train(examples, number, folder, None) if examples else (0, [])
        after = output_probe(self.mllm, self.fold.train, self.questions, self.reader)
        changed = bool((probe != after).any())
        if examples and not changed:
            raise ThroughlineError(f"round {number} trained, and the output did not change", self.unit.slug)
        write_json_lines(folder / "training.jsonl", lines)
        write_json(folder / "round.json", {**result.line(number), "adapter_changed": changed, "trained": len(examples)})
        write_json_lines(folder / "accepted.jsonl", [{"sample_id": i, "text": chains[i]} for i in sorted(chains)])
        save_adapter(self.model, folder / "adapter")
        after_round(number, folder)
        write_json(folder / STAGE, {"optimiser_steps": taken})
        return chains

    def _sampler(self, folder: Path) -> Sampler:
        """Who draws a round's chains; what a server needs lies in the round's folder meanwhile."""
        settings = self.config.training.sampler
        if settings.serve is None:
            constraint = constraint_of(self.config.training.self_labelling, self.mllm.chat, self.questions.format)
            return InProcessSampler(self.mllm, self.reader, constraint)
        from throughline.experiment.serving import ServedSampler  # brings a client's library: only where it is used

        return ServedSampler(self.mllm, settings, self.questions, self.fold.train, folder, self.told)

    def _train(
        self, examples: Sequence[Taught], number: int, folder: Path, max_steps: int | None
    ) -> tuple[int, list[LossLine]]:
        stage = self.config.training.stage
        marked = self.method.marked
        name = f"round {number}" if number else "first"

        def tree(index: int) -> Tree:
            one, chain = examples[index]
            example = Example(class_name(one.label), chain)
            image = self.reader.encode(one)
            return sample_tree(self.mllm.chat, self.questions, image, example, marked, stage.label_reduce)

        epochs = folder / "epochs"

        def keep(epoch: int) -> None:
            save_adapter(self.model, epochs / str(epoch))

        select = self.config.evaluation.selection == "validation" and not self.method.self_labelled
        taken, lines = train_stage(
            self.model,
            TreeDataset(len(examples), tree),
            self.mllm.collate,
            stage.model_copy(update={"bucket_lengths": stage.bucket_lengths and self.mllm.plan.pads}),
            seed=seed_of(self.unit.seed, "stage", number),
            folder=folder,
            max_steps=max_steps,
            after_epoch=keep if select else None,
            told=lambda line: self.told(f"{name} stage: step {line['step']}/{line['steps']}, loss {line['loss']:.3f}"),
        )
        if select:
            found = sorted(epochs.iterdir(), key=lambda path: int(path.name))
            self._select([Candidate(f"epoch {path.name}", path) for path in found])
        return taken, [{**line, "stage": name, "round": number} for line in lines]

    def _select(self, candidates: Sequence[Candidate]) -> None:
        self.told("selecting on the source domains' out splits")
        answering = self.config.evaluation.answering
        validation = self.fold.validation
        lines = select_best(self.model, self.mllm, candidates, validation, self.questions, answering, self.reader)
        write_json_lines(self.folder / "validation.jsonl", lines)

    def _steps_of(self, name: str) -> int:
        return stage_steps(unit_folder(self.run_folder, name))

    def _collect_rounds(self, total: int) -> None:
        """The rounds' loss lines and summaries, in the files that readers of a unit look for."""
        folders = [self.folder / f"round-{number}" for number in range(1, total + 1)]
        lines = [line for folder in folders for line in read_json_lines(folder / "training.jsonl")]
        write_json_lines(self.folder / "training.jsonl", lines)
        write_json_lines(self.folder / "rounds.jsonl", [_read_object(folder / "round.json") for folder in folders])


def _read_object(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value
