"""One unit from weights to results: learn (`learning`), answer every image of the target in every way, write.

Runs in a worker process (`worker`). Everything it writes lies in the unit's folder; what is whole there is not done
again, so that a killed unit goes on where it was and ends with the same numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from throughline.core.files import read_json_lines, write_json, write_json_lines
from throughline.domains.samples import ImageSet
from throughline.evaluation.answers import answer_samples
from throughline.evaluation.folds import leave_out
from throughline.evaluation.results import Measurement, results_lines
from throughline.experiment.config import RunConfig
from throughline.experiment.learning import Learning, Told
from throughline.experiment.units import Unit
from throughline.runs.records import Prediction


def execute(unit: Unit, config: RunConfig, images: ImageSet, run_folder: Path, told: Told) -> None:
    """Trains and measures `unit`; leaves predictions, metrics, loss lines, rounds and the adapter in its folder."""
    fold = leave_out(images, unit.targets, unit.trial, config.data.train_per_domain)
    _Execution(Learning(unit, config, fold, images.classes, run_folder, told)).run()


@dataclass(frozen=True)
class _Execution:
    learning: Learning

    def run(self) -> None:
        """The whole unit; `metrics.json` has the lines of the rounds before those of the finished model."""
        folder = self.learning.folder
        self.learning.run(self._measure_round)
        rounds = range(1, self.learning.config.training.rounds + 1) if self.learning.method.self_labelled else ()
        measured = {number: read_json_lines(folder / f"round-{number}" / "results.jsonl") for number in rounds}
        last = self.learning.final_round
        if last is not None:  # these weights have answered already
            predictions = read_json_lines(folder / f"round-{last}" / "predictions.jsonl")
            lines = [{**line, "round": None} for line in measured[last]]
        else:
            found, lines = self._measure(None)
            predictions = [p.to_json() for p in found]
        write_json_lines(folder / "predictions.jsonl", predictions)
        write_json(folder / "metrics.json", {"results": [*chain.from_iterable(measured.values()), *lines]})

    def _measure_round(self, number: int, folder: Path) -> None:
        predictions, lines = self._measure(number)
        write_json_lines(folder / "predictions.jsonl", [p.to_json() for p in predictions])
        write_json_lines(folder / "results.jsonl", lines)

    def _measure(self, number: int | None) -> tuple[list[Prediction], list[dict[str, Any]]]:
        """Every way of answering on the whole target: the predictions and their results lines."""
        learning, fold = self.learning, self.learning.fold
        answering = learning.config.evaluation.answering
        seconds: Counter[str] = Counter()
        predictions = answer_samples(
            learning.mllm,
            fold.test,
            learning.questions.build(answering),
            answering.batch,
            reader=learning.reader,
            on_progress=learning.counted(", ".join(answering.answers), "images"),
            on_seconds=lambda answer, took: seconds.update({answer: took}),
        )
        predictions.sort(key=lambda prediction: answering.answers.index(prediction.answer))
        unit = learning.unit
        measurement = Measurement(unit.name, unit.dataset, unit.model, unit.targets, unit.method, unit.seed, number)
        out = {p.sample_id for p in predictions} - fold.target_in
        splits = {"in": fold.target_in, "out": out, "all": None}
        lines = results_lines(predictions, learning.questions.classes, splits, measurement, seconds)
        return predictions, [line.to_json() for line in lines]
