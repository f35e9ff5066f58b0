"""The laboratory's teacher: writes five-stage chains from what it believes it sees of a scene, never from the class.

It gets parts, colours, setting and viewpoint, mistakes a known share of the parts, infers the class over the concept
graph, and now and then breaks the format, so that rejecting chains has work to do. Used by the `teaching` room.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from throughline.chains.formats import FIVE_STAGE, Chain, ChainFormat, render_chain
from throughline.core.seeding import generator
from throughline.drawn.concepts import FAMILIES, contrast_of, family_of, nearest_classes
from throughline.drawn.scenes import Background, Colours, Scene
from throughline.drawn.words import colour_of, listed, named, plural


@dataclass(frozen=True)
class DescriberSettings:
    """part_mistakes: probability that the deciding part is believed the other way round; other parts are mistaken
    less often. format_faults: probability that a chain breaks the format in one of the ways of `FAULTS`."""

    part_mistakes: float = 0.08
    format_faults: float = 0.06


# A free part is a detail that a reader of the picture gets wrong less often than the part it looks for, and the
# body is hardly ever missed.
FREE_PART_SHARE = 0.4
BODY_SHARE = 0.05


@dataclass(frozen=True)
class Sight:
    """What the describer gets of a scene. There is no class in it."""

    parts: frozenset[str]
    colours: Colours
    background: Background
    viewpoint: str
    near: bool


def sight_of(scene: Scene) -> Sight:
    """Everything of the scene that the describer may know."""
    return Sight(frozenset(scene.parts), scene.colours, scene.background, scene.viewpoint, near=scene.pose.scale > 0.76)


def believed_parts(parts: frozenset[str], rate: float, draw: np.random.Generator) -> frozenset[str]:
    """The parts with mistakes: each part of the families whose body is there is flipped at its rate."""
    believed = set(parts)
    for family in FAMILIES:
        if not parts.issuperset(family.required):
            continue
        rates = {family.deciding: rate}
        rates |= dict.fromkeys(family.free, rate * FREE_PART_SHARE)
        rates |= dict.fromkeys(family.required, rate * BODY_SHARE)
        for part, chance in rates.items():
            if draw.random() < chance:
                believed ^= {part}
    return frozenset(believed)


def _pick(draw: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(draw.integers(len(options)))]


def _setting(background: Background, draw: np.random.Generator) -> str:
    far, near = background.far, background.near
    options = {
        "beach": (f"a beach of {near} sand under a {far} sky", f"a {far} sky, some water and a {near} beach"),
        "city": (f"a {far} city above a {near} street", f"{far} houses of a city and a {near} street"),
        "hills": (f"{near} hills under a {far} sky", f"a {far} sky over {near} hills"),
        "meadow": (f"a {near} meadow under a {far} sky", f"{near} grass in a meadow and a {far} sky"),
        "room": (
            f"a room with a {far} wall and a {near} floor",
            f"a {far} wall of a room over a {near} floor",
        ),
        "table": (f"a {near} table with a {far} wall", f"a {far} wall behind a {near} table"),
    }
    return _pick(draw, options[background.kind])


def _view(viewpoint: str, draw: np.random.Generator) -> str:
    options = {
        "above": ("seen from above", "viewed from a little above"),
        "front": ("seen from the front", "viewed straight from the front"),
        "left": ("seen from the left", "viewed from the left side"),
        "right": ("seen from the right", "viewed from the right side"),
    }
    return _pick(draw, options[viewpoint])


def _stages(sight: Sight, believed: frozenset[str], cls: str, draw: np.random.Generator) -> dict[str, str]:
    """The five texts of a chain that ends in `cls`, by stage."""
    family, other = family_of(cls), contrast_of(cls)
    body = listed([part for part in family.required if part in believed]) or "shape"
    free = [part for part in family.free if part in believed]
    extras = listed([f"{colour_of(part, sight.colours)} {part}" for part in free])
    deciding, there = family.deciding, family.deciding in believed
    a_deciding, main = named(deciding), sight.colours.main
    of_deciding = f"{colour_of(deciding, sight.colours)} {deciding}"
    setting, view = _setting(sight.background, draw), _view(sight.viewpoint, draw)
    size = _pick(draw, ("large", "close") if sight.near else ("small", "distant"))
    it_has = "they belong" if plural(deciding) else "it belongs"

    summary = _pick(
        draw,
        (
            "the picture shows one object, which has to be named by its parts.",
            "i will describe the object, study its parts and choose one class.",
            "i first describe the scene and then compare the parts.",
            "one object has to be named, so i look at its shape and its parts.",
        ),
    )
    caption = _pick(
        draw,
        (
            f"a {size} object with {main} {body} stands before {setting}, {view}.",
            f"the image shows {setting}; in front is a {size} object, {view}, with {main} {body}.",
            f"before {setting} there is a {size} thing with {main} {body}, {view}.",
            f"{view}, a {size} object with {main} {body} can be found in front of {setting}.",
        ),
    )
    detail = (
        _pick(draw, (f"i also notice {extras}. ", f"there is {extras} as well. ", f"it comes with {extras}. "))
        if extras
        else _pick(draw, ("", "there are no further details. ", "nothing else is added. "))
    )
    if there:
        reasoning = detail + _pick(
            draw,
            (
                f"the {of_deciding} can be seen clearly, and {it_has} to a {cls}.",
                f"together with the {body} i find {a_deciding}, which is typical of a {cls}.",
                f"since {a_deciding} is joined to the {body}, this must be a {cls}."
                if not plural(deciding)
                else f"since {deciding} are joined to the {body}, this must be a {cls}.",
                f"the important part is the {of_deciding}, which suggests a {cls}.",
            ),
        )
        reflection = _pick(
            draw,
            (
                f"a {other} would have no {deciding}, so that class can be ruled out.",
                f"could it be a {other}? no, because the {deciding} would be missing then.",
                f"without the {deciding} i would say {other}, but here the evidence supports {cls}.",
                f"the setting does not matter; the {deciding} decides against a {other}.",
            ),
        )
    else:
        reasoning = detail + _pick(
            draw,
            (
                f"no {deciding} can be seen anywhere, and this points to a {cls}.",
                f"around the {body} i find no {deciding}, which is typical of a {cls}.",
                f"since the {body} comes without any {deciding}, this must be a {cls}.",
                f"the important part, the {deciding}, is absent, which suggests a {cls}.",
            ),
        )
        reflection = _pick(
            draw,
            (
                f"a {other} would need {a_deciding}, so that class can be ruled out.",
                f"could it be a {other}? no, because the {deciding} would be visible then.",
                f"with {a_deciding} i would say {other}, but here the evidence supports {cls}.",
                f"the setting does not matter; the absent {deciding} decides against a {other}.",
            ),
        )
    reflection += " " + _pick(
        draw,
        (
            "the background and the colours play no role.",
            "i am confident in this answer.",
            "all other parts agree with it.",
            "this view hides nothing important.",
        ),
    )
    return {
        "SUMMARY": summary,
        "CAPTION": caption,
        "REASONING": reasoning,
        "REFLECTION": reflection,
        "CONCLUSION": cls,
    }


def _in_format(texts: dict[str, str], format: ChainFormat) -> Chain:
    """The texts as a chain of any format: stages of the same name, or one stage of thought and an answer."""
    thought = " ".join(text for name, text in texts.items() if name != "CONCLUSION")
    stages = tuple(
        f"the object is a {texts['CONCLUSION']}."
        if name == format.answer_stage and format.answer_is_tail
        else texts["CONCLUSION"]
        if name == format.answer_stage
        else texts.get(name, thought)
        for name in format.stages
    )
    return Chain(format, stages)


def _without_stage(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    gone = int(draw.integers(len(lines)))
    return "\n".join(lines[:gone] + lines[gone + 1 :])


def _swapped(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    first = int(draw.integers(len(lines) - 1))
    return "\n".join([*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]])


def _repeated(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    twice = int(draw.integers(sum(line.startswith("<") for line in lines)))
    return "\n".join([*lines[: twice + 1], *lines[twice:]])


def _emptied(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    tags = [line.split(" ")[0] for line in lines if line.startswith("<")]
    gone = int(draw.integers(len(tags)))
    return "\n".join([*lines[:gone], f"{tags[gone]} {tags[gone].replace('<', '</')}", *lines[gone + 1 :]])


def _trailing(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    last = _pick(draw, ("i hope this helps.", "that is my answer.", "tell me if you need further details."))
    return "\n".join([*lines, last])


def _truncated(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    words = "\n".join(lines[:-1]).split(" ")
    return " ".join(words[: int(draw.integers(len(words) // 4, len(words) - 2))])


def _ambiguous(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    cls = texts["CONCLUSION"]
    return "\n".join([*lines[:-1], lines[-1].replace(cls, f"{cls} or {contrast_of(cls)}")])


def _refusal(lines: list[str], texts: dict[str, str], draw: np.random.Generator) -> str:
    return _pick(draw, ("i am sorry, but i cannot name this object.", "i cannot answer this question."))


# The ways in which a chain goes wrong, by the outcome that a parser should give it.
FAULTS: dict[str, Callable[[list[str], dict[str, str], np.random.Generator], str]] = {
    "ambiguous": _ambiguous,
    "empty_stage": _emptied,
    "missing_stage": _without_stage,
    "refusal": _refusal,
    "repeated_stage": _repeated,
    "trailing_text": _trailing,
    "truncated": _truncated,
    "wrong_order": _swapped,
}


def describe(
    scene: Scene,
    *,
    seed: int,
    sample_id: str,
    candidate: int = 0,
    format: ChainFormat = FIVE_STAGE,
    settings: DescriberSettings | None = None,
) -> str:
    """One chain about the scene; `candidate` numbers independent attempts at the same image.

    The text depends on the scene's parts, colours, setting, viewpoint and size, and on a generator named by
    `seed`, `sample_id` and `candidate`; never on `scene.cls`.
    """
    used = settings or DescriberSettings()
    draw = generator(seed, "describe", sample_id, candidate)
    sight = sight_of(scene)
    believed = believed_parts(sight.parts, used.part_mistakes, draw)
    cls = _pick(draw, nearest_classes(believed))
    texts = _stages(sight, believed, cls, draw)
    text = render_chain(_in_format(texts, format))
    if draw.random() >= used.format_faults:
        return text
    lines = text.split("\n")
    # What follows an untagged answer belongs to it, and it has no place of its own to leave.
    untagged = ("trailing_text", "wrong_order") if format.answer_is_tail else ()
    fault = _pick(draw, tuple(name for name in FAULTS if name not in untagged))
    return FAULTS[fault](lines, texts, draw)
