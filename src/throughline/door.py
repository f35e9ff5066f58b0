"""What a notebook calls, in the words of the command line: each function is one verb, takes plain values and gives
records. Nothing is computed here. `import throughline` gives these names; docs/howto/python.md shows them at work.

Whatever a user can put right is a ThroughlineError. A script that runs an experiment or a fit does so below
`if __name__ == "__main__":`, since workers are processes that import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from throughline.core.settings import Quantization
    from throughline.domains.samples import ImageSet, Sample
    from throughline.evaluation.image_answers import ImageAnswer
    from throughline.evaluation.saved_model import OpenedModel
    from throughline.experiment.config import RunConfig
    from throughline.experiment.final_model import FittedModel
    from throughline.questions.question import Question
    from throughline.runs.reader import Run
    from throughline.runs.records import Prediction
    from throughline.teaching.recorder import Progress
    from throughline.teaching.teachers import Teacher

NAMES: Sequence[str] = ("label", "reasoning", "likelihood")


def load_model(
    name: str | Path,
    classes: Sequence[str] | None = None,
    *,
    checkpoint: str | None = None,
    hub: bool = False,
    tiles: int | None = None,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    device: str = "auto",
) -> OpenedModel:
    """Loads a model that can be asked: a folder made by `fit`, or a checkpoint with a class list, zero-shot.

    A checkpoint is `pocket`, a folder, or with `hub` a name on the Hugging Face hub. `checkpoint` is where the base of
    a fitted model lies, if not where it was; None for the others means as the model was fitted.
    """
    from throughline.core.settings import ModelSettings
    from throughline.evaluation.saved_model import open_model

    wanted = {"checkpoint": checkpoint, "tiles": tiles, "dtype": dtype, "quantization": quantization}
    given = {key: value for key, value in wanted.items() if value is not None}
    base = ModelSettings.model_validate(given | {"hub": hub, "device": device})
    return open_model(str(name), classes, base)


def ask(
    model: OpenedModel, images: ImageSet | Sequence[Sample], questions: Sequence[str | Question] = NAMES
) -> list[Prediction]:
    """A prediction for each sample and question, in the order of the samples; with its `correct` and `outcome`.

    A question is `label`, `reasoning` or `likelihood`, or one of your own. An image that cannot be read has the
    outcome `error` and counts as wrong.
    """
    from throughline.evaluation.answers import answer_samples

    settings = model.answering.model_copy(update={"answers": NAMES})
    named = {question.name: question for question in model.questions.build(settings)}
    chosen = [named[question] if isinstance(question, str) else question for question in questions]
    samples = images if isinstance(images, Sequence) else images.samples
    return answer_samples(model.mllm, samples, chosen, model.answering.batch)


def predict(model: OpenedModel, images: Sequence[str | Path], *, chains: bool = True) -> list[ImageAnswer]:
    """Label, confidence and chain of image files nobody has labelled; folders among `images` are walked for them."""
    from throughline.domains.listing import find_images
    from throughline.evaluation.image_answers import predict as answer_images

    return list(answer_images(model, find_images([Path(image) for image in images]), chains=chains))


def build_chains(
    images: ImageSet,
    store: str | Path,
    *,
    teacher: Teacher | None = None,
    format: str = "five_stage",
    rule: str = "correct",
    candidates: int = 4,
    enough: int | None = 1,
    seed: int = 0,
) -> Progress:
    """Asks a teacher for reasoning chains of the images, into a chain store that a run can learn from.

    None as `teacher` is the describer, which knows drawn worlds only. An image gets up to `candidates` chains until
    `enough` of them are accepted by the `rule`; what the store holds is not asked for again.
    """
    from throughline.chains.formats import FORMATS
    from throughline.teaching.building import build_chains as build
    from throughline.teaching.plan import BuildPlan
    from throughline.teaching.prompt import teacher_prompt
    from throughline.teaching.teachers import Describer

    plan = BuildPlan(images, FORMATS[format], rule, candidates, enough, images_named=str(images.root))
    if teacher is None:
        prompt = teacher_prompt(images.classes, plan.format, names=images.names)
        teacher = Describer(images.root, plan.format, prompt, seed)
    # In a thread of its own, since a notebook has an event loop already.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(build, plan, teacher, Path(store)).result()


def load_config(name: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of a YAML file or a preset; `overrides` has dotted keys, e.g. `{"training.rounds": 2}`."""
    from throughline.experiment.config_files import load_config as read_config

    return read_config(str(name), changes=overrides)


def run_experiment(
    config: RunConfig | str | Path, folder: str | Path, overrides: Mapping[str, Any] | None = None
) -> Run:
    """Runs an experiment in `folder`, or the rest of it, and reads it: `.frames` has its lines as pandas frames.

    `config` is a config, a YAML file or a preset; `overrides` are laid over the latter two.
    """
    from throughline.experiment import run
    from throughline.experiment.config import RunConfig
    from throughline.runs.reader import read_run

    if not isinstance(config, RunConfig):
        config = load_config(config, overrides)
    elif overrides:
        raise TypeError("overrides are laid over a file or a preset: give them to load_config")
    if (failed := run.run_experiment(config, Path(folder)).failed) is not None:
        raise failed
    return read_run(Path(folder))


def fit(
    images: str | Path,
    folder: str | Path,
    *,
    method: str | None = None,
    chains: str | Path | None = None,
    preset: str | Path | None = None,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
) -> FittedModel:
    """Trains one method on all domains of an image folder and saves the model in `folder`; `load_model` opens it.

    `chains` is a chain store, or `describer` for a drawn world. Without a `method` it is `cls`, with chains
    `mtct_sarr`. `preset` is a config whose model and training are taken; `overrides` are laid over it.
    """
    from throughline.experiment.final_model import fit_config, fit_model

    config = fit_config(
        Path(images),
        method=method,
        chains=None if chains is None else str(chains),
        seed=seed,
        preset=None if preset is None else str(preset),
        changes=overrides,
    )
    return fit_model(config, Path(folder))


def report(run: str | Path, folder: str | Path | None = None) -> Path:
    """Writes the self-contained page of a run folder, into its `report/` or `folder`, and gives the page's path."""
    from throughline.reporting.page import write_page

    return write_page(Path(run), folder=None if folder is None else Path(folder))
