"""The final model: one method on all images of all domains, saved with everything that asking it needs.

Called by the verb `fit`. The stages and rounds are those of a run's units (`training`), with nothing held out; they
work in `MODEL/.fitting`, a run folder in small, so that a killed fit goes on where it was. The record is written last.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import (
    content_hash,
    read_json_lines,
    readable_os_errors,
    require_own_folder,
    require_writable,
    write_atomically,
    write_json,
    write_json_lines,
)
from throughline.drawn import is_drawn
from throughline.evaluation.model_card import model_card
from throughline.evaluation.saved_model import (
    ADAPTER,
    LOADING,
    RECORD,
    UNFINISHED,
    BaseCheckpoint,
    ModelRecord,
    TrainingChains,
    TrainingImages,
    read_record,
)
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config, read_mapping
from throughline.experiment.engine.local import Progress
from throughline.experiment.engine.worker import Job
from throughline.experiment.environment import describe_environment
from throughline.experiment.plan import PlannedSet, plan_final
from throughline.experiment.preparation import (
    CHAINS,
    gather_chains,
    image_warnings,
    preview_images,
    require_chain_source,
    require_server,
    write_accepted_chains,
)
from throughline.experiment.run import execute_units, require_models, with_commits
from throughline.mllm.checkpoints import (
    POCKET,
    checkpoint_folder,
    checkpoint_name,
    fingerprint_checkpoint,
)
from throughline.runs.folder import ROUNDS, TRAINING, hold_run, input_changes, listed_changes, unit_folder
from throughline.runs.unit import Unit
from throughline.training.methods import method_table
from throughline.training.stages.context import cumulative_steps

POCKET_PRESET = "demo"
"""Settings for the pocket checkpoint; any other has the defaults of the config, which are the paper's."""

DESCRIBER = "describer"
"""In the place of a journal: the drawn world's own teacher."""


@dataclass(frozen=True)
class FittedModel:
    """A saved model; `worked` is False when it stood there already, made from the same inputs."""

    folder: Path
    record: ModelRecord
    worked: bool


def fit_config(
    images: Path,
    *,
    method: str | None = None,
    chains: str | None = None,
    seed: int = 0,
    preset: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The config of a final model on `images`: a preset's (or YAML file's) model and training, `changes` laid over it.

    `chains` is a journal, a folder of journals, or `describer`. `changes` has dotted keys, as `--set` of a run. Of the
    preset's data, chains, methods and seeds nothing is taken but the classes' names and the chains' format and rule.
    """
    changes = dict(changes or {})
    if preset is None and changes.get("model.checkpoint", POCKET) == POCKET:
        preset = POCKET_PRESET
    data = {"images": str(images)}
    if preset is None:
        config = RunConfig.model_validate({"name": "fit", "data": data})
    else:
        config = load_config(preset, changes={"data": data | {"names": _names(preset, images)}})
    return config.with_keys(
        {
            "chains.teacher": DESCRIBER if chains == DESCRIBER else None,
            "chains.journal": chains if chains != DESCRIBER else None,
            "methods": [method or ("cls" if chains is None else "mtct_sarr")],
            "seeds": [seed],
            "workers": 1,
            "evaluation.selection": "last",  # nothing is held out to select on
            **changes,
        }
    )


def _names(preset: str, images: Path) -> Any:
    """`names` in the preset's data; of several image sets, those of the one that these images are."""
    data = read_mapping(preset).get("data")
    sets = [own for own in (data if isinstance(data, list) else [data]) if isinstance(own, dict)]
    return next((own.get("names") for own in sets if len(sets) == 1 or own.get("images") == str(images)), None) or {}


def fit_model(
    config: RunConfig,
    out: Path,
    *,
    report_progress: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> FittedModel:
    """Trains the config's one method with its one seed on all its images and saves the model in `out`.

    Raises ThroughlineError for faulty input before anything is written, for a folder that holds anything but this
    model or its beginnings, and when training fails; Interrupted after Ctrl-C.
    """
    if config.evaluation.selection != "last":
        raise ValueError("nothing is held out, so there is nothing to select on")
    (images,) = preview_images(config)
    for warning in image_warnings(images):
        report_progress(warning)
    needs_chains = any(method.needs_chains for method in method_table(config.methods).values())
    _require_chains(config, needs_chains)
    require_models(config)
    require_server(config)
    require_own_folder(out, (RECORD, UNFINISHED), "a model")
    require_writable(out / RECORD)
    with _workplace(out) as work:
        chains = None
        if needs_chains:
            report_progress("preparing chains")
            chains = gather_chains(config, images, work / CHAINS)
            write_accepted_chains(work / CHAINS, chains)
        report_progress("looking at the checkpoint")
        config = with_commits(config)
        fingerprint = fingerprint_checkpoint(config.model.checkpoint, config.model.revision)
        planned = PlannedSet(config.data, images, chains, config.chains.pairs)
        units = plan_final(config, planned, fingerprint)
        earlier = _finished(out, units[-1])
        if earlier is None:
            execute_units(units, Job(config, (images,), work), [planned], on_progress=on_progress)
            _publish(out, _record(config, planned, units[-1], work), units, work)
        record = earlier or read_record(out)
        shutil.rmtree(work, ignore_errors=True)
    return FittedModel(out, record, earlier is None)


def _require_chains(config: RunConfig, needed: bool) -> None:
    settings, (method,) = config.chains, config.methods
    named = settings.journal is not None or settings.teacher is not None
    if needed and not named:
        raise UsageError(f"{method} learns from reasoning chains", do="give --chains JOURNAL, or --method cls")
    if named and not needed:
        raise UsageError(f"{method} learns from labels only", do="leave out --chains, or use --method mtct_sarr")
    require_chain_source(config, "give a chain journal with --chains JOURNAL")


@contextlib.contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """`out/.fitting`, held for this process. A fault before any training leaves nothing that was not there before."""
    work = out / UNFINISHED
    new, new_work = not out.exists(), not work.exists()
    try:
        with hold_run(work):
            yield work
    except ThroughlineError:
        if new_work and not (work / "units").exists():
            shutil.rmtree(work, ignore_errors=True)
            if new:
                with contextlib.suppress(OSError):
                    out.rmdir()
        raise


def _finished(out: Path, unit: Unit) -> ModelRecord | None:
    """The record of a model in `out` that was made from the same inputs; ThroughlineError when it is another model."""
    if not (out / RECORD).is_file():
        return None
    record = read_record(out)
    changes = input_changes(record.inputs, unit.inputs)
    if changes:
        what = f"another model is here ({listed_changes(changes)})"
        raise ThroughlineError(what, out, "name another folder with --out")
    return record


def _record(config: RunConfig, planned: PlannedSet, unit: Unit, work: Path) -> ModelRecord:
    """Of the model that the last unit of a fit is."""
    model, images = config.model, planned.images
    folder = checkpoint_folder(model.checkpoint)
    by_name = folder is None or not Path(model.checkpoint).expanduser().is_dir()  # on the hub, or in the package
    questions = config.question_set(images.classes, images.names, images.several)
    environment = describe_environment()
    return ModelRecord(
        method=unit.method,
        seed=unit.seed,
        classes=images.classes,
        names={label: tuple(own) for label, own in images.names.items()},
        several=images.several,
        prompts={"label": questions.label, "reasoning": questions.reasoning},
        format=config.chains.format,
        checkpoint=BaseCheckpoint(
            name=checkpoint_name(model.checkpoint),
            source=model.checkpoint if by_name else str(Path(model.checkpoint).expanduser().resolve()),
            hub=folder is None,
            revision=model.revision,
            fingerprint=unit.inputs["model"]["checkpoint"],
        ),
        **model.model_dump(include=LOADING),
        answering=config.evaluation.answering,
        settings={
            "training": config.at(config.data, {}, unit.method).training.model_dump(mode="json"),
            "lora": model.lora.model_dump(mode="json"),
            "rule": config.chains.rule,
            "candidates": config.chains.candidates,
            "threads": config.threads,
        },
        optimiser_steps=cumulative_steps(unit_folder(work, unit)),
        images=TrainingImages(
            name=images.name,
            fingerprint=images.fingerprint(),
            by_domain={domain: len(images.in_domain(domain)) for domain in images.domains},
            drawn=is_drawn(images.root),
        ),
        chains=None
        if planned.chains is None
        else TrainingChains(
            source="describer" if config.chains.journal is None else "journal",
            rule=config.chains.rule,
            accepted=sum(map(len, planned.chains.values())),
            sha256=content_hash(planned.chain_hashes),
        ),
        versions={**environment["packages"], "python": environment["python"], "commit": environment["commit"]},
        inputs=dict(unit.inputs),
    )


def _publish(out: Path, record: ModelRecord, units: tuple[Unit, ...], work: Path) -> None:
    """Adapter, loss lines and card into the model's folder, and the record last: with it the model is whole."""
    folders = [unit_folder(work, unit) for unit in units]
    with readable_os_errors(out):
        shutil.rmtree(out / ADAPTER, ignore_errors=True)
        shutil.copytree(folders[-1] / ADAPTER, out / ADAPTER)
    for name in (TRAINING, ROUNDS):
        files = [folder / name for folder in folders if (folder / name).is_file()]
        if files:
            write_json_lines(out / name, [row for file in files for row in read_json_lines(file)])
    write_atomically(out / "README.md", model_card(record))
    write_json(out / RECORD, record.to_json())
