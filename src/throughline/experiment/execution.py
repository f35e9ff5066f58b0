"""One unit from weights to results: load, start from its parent, train or self-label, select, answer, write.

Runs in a worker process (`worker`). Everything it writes lies in the unit's folder; stages and rounds that are whole
there are not run again, so that a killed unit goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from throughline.chains.formats import FORMATS
from throughline.chains.prompts import class_name, make_prompts
from throughline.domains.samples import ImageSet, Sample
from throughline.errors import ThroughlineError
from throughline.evaluation.answering import Prediction, Questions, answer_samples
from throughline.evaluation.folds import Fold, leave_out
from throughline.evaluation.measuring import result_lines
from throughline.evaluation.selection import Candidate, select_best
from throughline.experiment.config import RunConfig
from throughline.experiment.folder import unit_folder
from throughline.experiment.preparation import read_chains
from throughline.experiment.units import Unit
from throughline.files import read_json_lines, write_json, write_json_lines
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import adapter_fingerprint, add_lora, load_adapter, save_adapter
from throughline.seeding import seed_of
from throughline.training.checks import output_probe
from throughline.training.methods import METHODS
from throughline.training.objectives import Example, sample_tree
from throughline.training.rounds import RoundPlan, self_label
from throughline.training.trainer import LossLine, TreeDataset, train_stage

Told = Callable[[str], None]

STAGE = "stage.json"
"""Written last into a stage's folder: its optimiser steps. The stage is whole when it is there."""


def execute(unit: Unit, config: RunConfig, images: ImageSet, run_folder: Path, told: Told) -> None:
    """Trains and measures `unit`; leaves predictions, metrics, loss lines, rounds and the adapter in its folder."""
    _Execution(unit, config, images, run_folder, told).run()


@dataclass
class _Execution:
    unit: Unit
    config: RunConfig
    images: ImageSet
    run_folder: Path
    told: Told
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = unit_folder(self.run_folder, self.unit)
        self.method = METHODS[self.unit.method]
        self.fold: Fold = leave_out(self.images, self.unit.targets, self.unit.trial)
        form = FORMATS[self.config.chains.format]
        prompts = make_prompts(self.images.classes, form)
        self.questions = Questions(prompts, self.images.classes, form)
        model = self.config.model
        self.mllm: Mllm = load_mllm(
            model.checkpoint, tiles=model.tiles, dtype=model.dtype, device=_device(model.device), hub=model.hub
        )
        self.reader = ImageReader(self.mllm.chat)
        self.results: list[dict[str, Any]] = []

    def run(self) -> None:
        """The whole unit."""
        if self.method.self_labelled:
            self._rounds()
        elif self.method.trains:
            self._first_stage()
        predictions = self._measure(None)
        write_json_lines(self.folder / "predictions.jsonl", [p.to_json() for p in predictions])
        write_json(self.folder / "metrics.json", {"results": self.results})

    # training -------------------------------------------------------------------------------------------------------

    def _first_stage(self) -> None:
        """Labels, teacher's chains or both, from the base."""
        chains = read_chains(self.run_folder) if self.method.needs_chains else {}
        samples = [s for s in self.fold.train if not self.method.needs_chains or s.id in chains]
        if not samples:
            raise ThroughlineError("no source image has an accepted chain", self.unit.slug, "build more chains")
        steps = self._steps_of(self.unit.steps_like) if self.unit.steps_like else None
        if (self.folder / STAGE).is_file():
            self.model = load_adapter(self.mllm.model, self.folder / "adapter")
            return
        self.model = add_lora(self.mllm.model, self.config.model.lora, seed_of(self.unit.seed, "lora") % 2**32)
        taken, lines = self._train(samples, chains, 0, self.folder, steps)
        write_json_lines(self.folder / "training.jsonl", lines)
        save_adapter(self.model, self.folder / "adapter")
        write_json(self.folder / STAGE, {"optimiser_steps": taken, "cumulative_steps": taken})

    def _rounds(self) -> None:
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
                kept = self._round(number, folder, kept)
            elif (folder / "accepted.jsonl").is_file():
                kept = {row["sample_id"]: row["text"] for row in read_json_lines(folder / "accepted.jsonl")}
            steps += _stage(folder)["optimiser_steps"]
            self.results += read_json_lines(folder / "results.jsonl")
            candidates.append(Candidate(f"round {number}", folder / "adapter"))
        self._collect_rounds(total)
        if self.config.evaluation.selection == "validation":
            self._select(candidates)
        save_adapter(self.model, self.folder / "adapter")
        own = steps - self._steps_of(self.unit.starts_from)
        write_json(self.folder / STAGE, {"optimiser_steps": own, "cumulative_steps": steps})

    def _round(self, number: int, folder: Path, kept: dict[str, str]) -> dict[str, str]:
        """Samples, keeps what concludes in the truth, trains on it, checks that the output moved, measures."""
        training = self.config.training
        before = adapter_fingerprint(self.model)
        plan = RoundPlan(
            samples=self.fold.train,
            prompts=self.questions.prompts,
            classes=self.questions.classes,
            format=self.questions.format,
            rule=self.config.chains.rule,
            sampling=training.self_labelling,
            batch=self.config.evaluation.answering.batch,
            seed=self.unit.seed,
            round=number,
        )
        result = self_label(
            self.mllm,
            plan,
            folder / "journal-0.jsonl",
            before,
            reader=self.reader,
            told=self._counted(f"round {number}", "chains"),
        )
        chains = dict(result.accepted) if training.rejected == "drop" else {**kept, **result.accepted}
        samples = [s for s in self.fold.train if s.id in chains]
        probe = output_probe(self.mllm, self.fold.train, self.questions.prompts, self.questions.classes, self.reader)
        taken, lines = self._train(samples, chains, number, folder, None) if samples else (0, [])
        after = output_probe(self.mllm, self.fold.train, self.questions.prompts, self.questions.classes, self.reader)
        changed = bool((probe != after).any())
        if samples and not changed:
            raise ThroughlineError(f"round {number} trained, and the output did not change", self.unit.slug)
        write_json_lines(folder / "training.jsonl", lines)
        write_json(folder / "round.json", {**result.line(number), "adapter_changed": changed, "trained": len(samples)})
        write_json_lines(folder / "accepted.jsonl", [{"sample_id": i, "text": chains[i]} for i in sorted(chains)])
        save_adapter(self.model, folder / "adapter")
        earlier = len(self.results)
        predictions = self._measure(number)
        write_json_lines(folder / "predictions.jsonl", [p.to_json() for p in predictions])
        write_json_lines(folder / "results.jsonl", self.results[earlier:])
        del self.results[earlier:]  # read back with those of whole rounds
        write_json(folder / STAGE, {"optimiser_steps": taken})
        return chains

    def _train(
        self, samples: Sequence[Sample], chains: dict[str, str], number: int, folder: Path, max_steps: int | None
    ) -> tuple[int, list[LossLine]]:
        stage = self.config.training.stage
        marked = self.method.marked
        name = f"round {number}" if number else "first"

        def tree(index: int) -> Any:
            one = samples[index]
            example = Example(class_name(one.label), chains.get(one.id))
            image = self.reader.encode(one)
            return sample_tree(self.mllm.chat, self.questions.prompts, image, example, marked, stage.label_reduce)

        epochs = folder / "epochs"
        candidates: list[Candidate] = []

        def keep(epoch: int) -> None:
            save_adapter(self.model, epochs / str(epoch))

        select = self.config.evaluation.selection == "validation" and not self.method.self_labelled
        taken, lines = train_stage(
            self.model,
            TreeDataset(len(samples), tree),
            self.mllm.collate,
            stage,
            seed=seed_of(self.unit.seed, "stage", number),
            folder=folder,
            max_steps=max_steps,
            after_epoch=keep if select else None,
            told=lambda line: self.told(f"{name} stage: step {line['step']}/{line['steps']}, loss {line['loss']:.3f}"),
        )
        if select:
            candidates = [Candidate(f"epoch {p.name}", p) for p in sorted(epochs.iterdir(), key=lambda p: int(p.name))]
            self._select(candidates)
        return taken, [{**line, "stage": name, "round": number} for line in lines]

    def _select(self, candidates: Sequence[Candidate]) -> None:
        self.told("selecting on the source domains' out splits")
        lines = select_best(self.model, self.mllm, candidates, self.fold.validation, self.questions, self._answering)
        write_json_lines(self.folder / "validation.jsonl", lines)

    # measuring ------------------------------------------------------------------------------------------------------

    @property
    def _answering(self) -> Any:
        return self.config.evaluation.answering

    def _measure(self, number: int | None) -> list[Prediction]:
        """Every way of answering on the whole target; adds the results lines."""
        predictions: list[Prediction] = []
        seconds: dict[str, float] = {}
        for answer in self._answering.answers:
            began = time.monotonic()
            predictions += answer_samples(
                self.mllm,
                self.fold.test,
                self.questions,
                self._answering.model_copy(update={"answers": (answer,)}),
                reader=self.reader,
                told=self._counted(answer, "images"),
            )
            seconds[answer] = time.monotonic() - began
        unit = self.unit
        common = {
            "unit": unit.name,
            "dataset": unit.dataset,
            "model": unit.model,
            "targets": list(unit.targets),
            "method": unit.method,
            "seed": unit.seed,
            "round": number,
        }
        out = {p.sample_id for p in predictions} - self.fold.target_in
        splits = {"in": self.fold.target_in, "out": out, "all": None}
        self.results += result_lines(predictions, self.images.classes, splits, common, seconds)
        return predictions

    def _counted(self, what: str, of: str) -> Callable[[int, int], None]:
        return lambda done, total: self.told(f"{what}: {done}/{total} {of}")

    def _steps_of(self, name: str) -> int:
        return int(_stage(unit_folder(self.run_folder, name))["cumulative_steps"])

    def _collect_rounds(self, total: int) -> None:
        """The rounds' loss lines and summaries, in the files that readers of a unit look for."""
        folders = [self.folder / f"round-{number}" for number in range(1, total + 1)]
        lines = [line for folder in folders for line in read_json_lines(folder / "training.jsonl")]
        write_json_lines(self.folder / "training.jsonl", lines)
        write_json_lines(self.folder / "rounds.jsonl", [_json(folder / "round.json") for folder in folders])


def _stage(folder: Path) -> dict[str, Any]:
    return _json(folder / STAGE)


def _json(path: Path) -> dict[str, Any]:
    import json

    value: dict[str, Any] = json.loads(path.read_text())
    return value


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ThroughlineError("no CUDA device here", "model.device", "use `cpu` or `auto`")
    return name
