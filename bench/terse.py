"""What a pocket reads and writes: short chains of its own wording, unlike the describer's in words and sentence, and
the texts its tokenizer is trained on. The short chains name parts and class only, and they are always right."""

from collections.abc import Sequence

from throughline.chains.formats import FIVE_STAGE, FORMATS, Chain, ChainFormat, render_chain
from throughline.chains.parsing import parse_chain
from throughline.core.seeding import generator
from throughline.drawn.concepts import CLASSES, PARTS, contrast_of, family_of
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene, pick
from throughline.drawn.words import listed, named
from throughline.questions.question_set import make_question_set

LONG_QUESTION = "Explain at length what this photo shows."
"""Behind this question a pocket learns the describer's language: a real base model can write like its teacher when it
is asked to, and answers the reasoning question in its own way."""

WHOLE = DescriberSettings(format_faults=0.0)
"""A describer whose chains are well formed."""
SURE = DescriberSettings(part_mistakes=0.0, format_faults=0.0)
"""A describer whose chains are well formed and end in the scene's class."""


def terse_chain(scene: Scene, seed: int) -> str:
    """A five-stage chain of about 30 words about the scene's parts and class, without background or viewpoint."""
    draw = generator(seed, "terse", scene.seed, scene.cls)

    def choose(*options: str) -> str:
        return pick(draw, options)

    family, cls, other = family_of(scene.cls), scene.cls, contrast_of(scene.cls)
    key, present = family.deciding, family.deciding in scene.parts
    body = " + ".join(family.required)
    sign, opposite = ("yes", "no") if present else ("no", "yes")
    present_parts = [part for part in (*family.required, key, *family.free) if part in scene.parts]
    rest = [part for part in present_parts if part in family.free]
    texts = (
        choose("list parts, check key part, give name.", "parts first, name last.", "key part gives name."),
        choose("found:", "got:", "parts:") + " " + ", ".join(present_parts) + ".",
        choose(
            f"{body} = {cls} / {other}. key {key}: {sign}.",
            f"{body}: {cls} / {other}. key {key} = {sign}.",
            f"key {key}: {sign}. {body}: {cls} / {other}.",
        ),
        choose(
            f"{other} = {key} {opposite}. not ok. {cls} = {key} {sign}. ok.",
            f"check: {cls} {key} {sign}, ok. {other} {key} {opposite}, not ok.",
            f"{key} {sign}: {cls} ok, {other} not ok.",
        )
        + (f" skip {', '.join(rest)}." if rest else ""),
        cls,
    )
    return render_chain(Chain(FIVE_STAGE, texts))


def in_format(text: str, format: ChainFormat) -> str:
    """A five-stage chain told in another format: the stages it lacks are left out, `think` takes all before the end."""
    if format is FIVE_STAGE:
        return text
    chain = parse_chain(text, FIVE_STAGE, CLASSES).chain
    assert chain is not None
    if "think" in format.stages:
        return render_chain(Chain(format, (" ".join(chain.stages[:-1]), chain.answer)))
    return render_chain(Chain(format, tuple(chain.stage(name) for name in format.stages)))


def corpus(seed: int, scenes: Sequence[tuple[str, Scene]]) -> list[str]:
    """What the tokenizer is trained on: questions, the base's own chains, and the describer's words."""
    texts = []
    for index, (_, scene) in enumerate(scenes[:4000]):
        texts.append(terse_chain(scene, seed))
        texts.append(describe(scene, seed=seed, sample_id=f"corpus {index}"))
    prompts = [make_question_set(CLASSES, format) for format in FORMATS.values()]
    # An answer begins without a blank. Names that begin one are single tokens too, so that a label can be copied.
    starts = [*CLASSES, *PARTS, "user", "assistant"]
    return texts + [p.reasoning for p in prompts for _ in range(200)] + starts * 2_000


def description(cls: str) -> str:
    """A class by the parts it must have, and the one it must not, e.g. `basin, no handle`."""
    family = family_of(cls)
    sign = "" if cls == family.with_part else "no "
    return ", ".join([*family.required, f"{sign}{family.deciding}"])


def in_words(cls: str) -> str:
    """The parts of a class as one would tell them: `a basin and no handle`."""
    family = family_of(cls)
    required = [named(part) for part in family.required]
    if cls == family.with_part:
        return listed([*required, named(family.deciding)])
    return f"{listed(required)} and no {family.deciding}"
