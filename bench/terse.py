"""The pocket base's own wording: short chains that pre-training teaches it, unlike the describer's in words and
sentence. They name parts and class only, and they are always right."""

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.core.seeding import generator
from throughline.drawn.concepts import contrast_of, family_of
from throughline.drawn.scenes import Scene, pick


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
