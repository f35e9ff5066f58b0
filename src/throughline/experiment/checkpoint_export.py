"""A trained model as one ordinary checkpoint: base and adapter merged, proved equal, with a record of what to ask it.

Called by the verb `export`. A model is a folder made by `throughline fit`, a run's unit, or one of its rounds; the
folder appears under its name only when it is whole and has been opened anew and compared (`mllm.merge_check`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import file_sha256, require_free_folder, whole_folder, write_json
from throughline.core.settings import ModelSettings, Quantization
from throughline.domains.images import load_image
from throughline.domains.listing import find_images
from throughline.evaluation.saved_model import (
    ADAPTER,
    RECORD,
    OpenedModel,
    find_record,
    laid_over,
    open_model,
    require_class_names,
)
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config
from throughline.experiment.preparation import preview_images
from throughline.mllm.checkpoints import checkpoint_folder, checkpoint_source
from throughline.mllm.load import DTYPES, open_checkpoint
from throughline.mllm.lora import ADAPTER_WEIGHTS, load_adapter
from throughline.mllm.merge_check import PROBED, MergeCheck, check_merged, make_probe
from throughline.mllm.merging import Merged, write_merged
from throughline.runs.folder import CONFIG
from throughline.runs.reader import read_unit

SCHEMA = 1
EXPORT_RECORD = "throughline-export.json"
"""Beside the checkpoint. Not called as a saved model's record is: that one promises an adapter."""


@dataclass(frozen=True)
class Exported:
    """A written checkpoint: whose it is, what to ask it, and how equal it is. What `throughline-export.json` holds."""

    method: str
    base: Mapping[str, str]
    adapter_sha256: str
    quantization: Quantization
    """How the decoder's weights were held in training; those written are of full width."""
    classes: tuple[str, ...]
    prompts: Mapping[str, str]
    """Both questions, word for word as they were trained: an image first, then one of them, in one user turn."""
    format: str
    tiles: int
    merged: Merged
    check: MergeCheck

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        return {"schema": SCHEMA, **asdict(self)}


def export_merged(
    name: str,
    out: Path,
    base: ModelSettings,
    *,
    classes: Sequence[str] | None = None,
    images: Path | None = None,
    dtype: str | None = None,
) -> Exported:
    """Merges the model called `name` into the folder `out`; `dtype` is that of the base's own files by default.

    `images` are what both are compared on, drawn noise where not given. `classes` replace the recorded ones. Raises
    ThroughlineError, leaving nothing at `out`, for a folder that holds something, for what is no trained model, for one
    that was trained on 4-bit weights unless `base` asks for those of full width, and when the checkpoint is not the
    adapter's equal.
    """
    require_free_folder(out)
    if classes is not None:
        require_class_names(classes)
    paths = find_images([images]) if images is not None else []
    shown = [load_image(path) for path in paths[:: max(1, len(paths) // PROBED)][:PROBED]]
    trained, settings = _open_trained(name, base, classes)
    questions = trained.questions
    with whole_folder(out) as work:
        dtype = dtype or _own_dtype(checkpoint_source(settings.checkpoint, settings.hub), settings.revision)
        merged = write_merged(trained.mllm, work, dtype)
        probe = make_probe(shown, questions.texts, questions.class_names, questions.format)
        exported = Exported(
            method=trained.method,
            base={"name": trained.mllm.name, "fingerprint": trained.mllm.fingerprint},
            adapter_sha256=file_sha256(Path(name).expanduser() / ADAPTER / ADAPTER_WEIGHTS),
            quantization=settings.quantization,
            classes=questions.classes,
            prompts={"label": questions.label, "reasoning": questions.reasoning},
            format=questions.format.name,
            tiles=trained.mllm.chat.tiles,
            merged=merged,
            check=check_merged(trained.mllm, work, merged, probe),
        )
        write_json(work / EXPORT_RECORD, exported.to_json())
    return exported


def _open_trained(name: str, base: ModelSettings, classes: Sequence[str] | None) -> tuple[OpenedModel, ModelSettings]:
    """The model in memory, its base at full width; and the settings of its base in training, with where it lies now."""
    folder = Path(name).expanduser()
    if is_unit(folder):
        return open_unit(folder, base, classes, full_width=True)
    record = find_record(name, base.hub)
    if record is None:
        raise ThroughlineError("a plain checkpoint has no adapter to merge", name, "serve it as it is")
    settings = laid_over(record.model, base)
    _require_full_width(settings, folder)
    settings = settings.model_copy(update={"quantization": record.quantization})
    return open_model(name, classes, base), settings


def _require_full_width(settings: ModelSettings, folder: Path) -> None:
    """The adapter has learnt to make up for the error of its base's 4 bits: without them it is asked for by name."""
    if settings.quantization != "none":
        raise ThroughlineError(
            f"this adapter was trained on weights in {settings.quantization}, which it cannot be merged into",
            folder,
            "add --quantization none to merge it into the base's weights of full width",
        )


def is_unit(folder: Path) -> bool:
    """Whether an adapter lies there that `throughline fit` has not saved."""
    return (folder / ADAPTER / ADAPTER_WEIGHTS).is_file() and not (folder / RECORD).is_file()


def open_unit(
    folder: Path, base: ModelSettings, classes: Sequence[str] | None = None, full_width: bool = False
) -> tuple[OpenedModel, ModelSettings]:
    """A unit's folder or a round's inside it, and how its base was loaded: what the adapter does not say stands in the
    unit and the run. ThroughlineError for a folder that is neither, for another base, and with `full_width` for an
    adapter that was trained on fewer bits."""
    read = read_unit(folder) or read_unit(folder.absolute().parent)
    if read is None:
        raise ThroughlineError("this adapter is not part of a unit of a run", folder, "name the run's own folder of it")
    unit, run = read.unit, load_config(str(read.folder.absolute().parent.parent / CONFIG))
    config = run.at(run.data, unit.factors, model=run.model_called(unit.model))
    settings = laid_over(config.model, base).model_copy(update={"hub": base.hub or config.model.hub})
    if full_width:
        _require_full_width(settings, folder)
    is_local = checkpoint_folder(settings.checkpoint) is not None
    if not is_local and not settings.hub:
        raise ThroughlineError("no such checkpoint", settings.checkpoint, "name the unit's base with --checkpoint")
    mllm = open_checkpoint(settings)
    if is_local and mllm.fingerprint != unit.inputs["model"]["checkpoint"]:
        what = "this base is not the one that the unit started from"
        raise ThroughlineError(what, settings.checkpoint, "name the right one")
    load_adapter(mllm.model, folder / ADAPTER)
    labels, several = (tuple(classes), False) if classes else _classes_of(run, unit.dataset)
    names = {label: own for label, own in unit.inputs.get("names", {}).items() if label in labels}
    questions = config.question_set(labels, names, several)
    opened = OpenedModel(mllm, questions, config.evaluation.answering, None, unit.method, unit.seed)
    return opened, settings.model_copy(update={"quantization": config.model.quantization})


def _classes_of(config: RunConfig, dataset: str) -> tuple[tuple[str, ...], bool]:
    """The class list of one of a run's image sets, which the run folder itself does not hold, and whether an image of
    it may be of several."""
    try:
        sets = preview_images(config)
        images = next((images for images in sets if images.name == dataset), sets[0])
        return images.classes, images.several
    except ThroughlineError as error:
        raise UsageError(
            f"the run's images are not where they were ({error.what})", do="name the classes with --classes a,b,c"
        ) from error


def _own_dtype(source: str, revision: str | None = None) -> str:
    """The type of the base's own files, as its config has it."""
    dtype = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False).dtype
    return next((name for name, known in DTYPES.items() if known == dtype), "float32")
