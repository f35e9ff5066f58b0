"""Any model and any chain journal as an analysis sees them: no run, no rounds."""

from functools import partial
from pathlib import Path

from throughline.chains.formats import FIVE_STAGE, FORMATS
from throughline.chains.journal import require_journals
from throughline.chains.records import Header
from throughline.chains.store import read_headers
from throughline.core.errors import ThroughlineError
from throughline.core.settings import AnswerSettings, ModelSettings, SelfLabelling
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.evaluation.folds import keep_all
from throughline.evaluation.saved_model import ModelRecord, find_record, laid_over, load_base, open_model
from throughline.experiment.analyses.subject import AnalyzedFold, AnalyzedUnit, Subject
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint
from throughline.mllm.load import Mllm
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.runs.reader import read_unit
from throughline.runs.unit import Unit
from throughline.teaching.building import accepted_chains
from throughline.training.methods import BOTH, METHODS, Method
from throughline.training.stages.sft import Sft

RULE = "correct"


def open_subject(
    name: str, source: str, base: ModelSettings, folder: Path, images_root: Path | None = None
) -> AnalyzedFold:
    """The one fold, which holds nothing out, of a model called `name` (a folder of `throughline fit` or a checkpoint)
    and the chains of a journal or store, `source`. Nothing is loaded here. `images_root` is where the journal does not
    say where its images lie, or wrongly.

    Raises ThroughlineError for a model or a journal that is not there, and when no chain is accepted.
    """
    record = find_record(name, base.hub)
    journals = require_journals(Path(source))
    header = next(read_headers(journals), None)
    root = images_root or (Path(header.images) if header is not None and header.images else None)
    if root is None:
        raise ThroughlineError("the journal does not say where its images lie", source, "give --images DIR")
    images = read_images(root)
    questions = _questions(record, header, images)
    chains = accepted_chains(journals, images, questions.format, RULE)
    if not chains:
        raise ThroughlineError("no chain of these images is accepted", source, f"rule {RULE}, {root}")
    model = laid_over(ModelSettings(checkpoint=name) if record is None else record.model, base)
    adapter = Path(name).expanduser() / "adapter"
    subject = Subject(
        model=checkpoint_name(name),
        folder=folder,
        images=images,
        questions=questions,
        chains={name: texts[0] for name, texts in chains.items()},
        checkpoint=fingerprint_checkpoint(name) if record is None else record.checkpoint.fingerprint,
        loading=(model.tiles, model.dtype, model.quantization),
        answering=AnswerSettings() if record is None else record.answering,
        self_labelling=SelfLabelling(),
        adapter=lambda state: None if state.method is None else adapter,
        load=partial(_load, name, base, record, questions.classes),
    )
    units = {}
    if record is not None:
        unit = Unit("final", images.name, (), record.method, subject.model, record.seed)
        folder_of_model = read_unit(adapter.parent, unit)
        assert folder_of_model is not None
        # of a user's own method we know here that it trained, and no more
        method = METHODS.get(record.method, Method(record.method, (Sft(BOTH),), "a method of the user's own"))
        units = {record.method: AnalyzedUnit(folder_of_model, method)}
    return AnalyzedFold((), 0 if record is None else record.seed, {}, units, keep_all(images), subject)


def _load(name: str, base: ModelSettings, record: ModelRecord | None, classes: tuple[str, ...]) -> Mllm:
    """The base of a fitted model, or the checkpoint itself."""
    return open_model(name, classes, base).mllm if record is None else load_base(record, base)


def _questions(record: ModelRecord | None, header: Header | None, images: ImageSet) -> QuestionSet:
    """Those that a fitted model was trained with, else ours for the images' classes in the journal's format."""
    if record is not None:
        return record.questions
    form = FORMATS[header.format] if header is not None else FIVE_STAGE
    return make_question_set(images.classes, form, names=images.names)
