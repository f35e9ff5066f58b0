"""The laboratory's teacher: writes five-stage chains from what it believes it sees of a scene, never from the class.

It gets parts, colours, setting and viewpoint, mistakes a known share of the parts, infers the class over the concept
graph, and now and then breaks the format, so that rejecting chains has work to do. Used by the `teaching` room.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from throughline.chains.formats import FIVE_STAGE, Chain, ChainFormat, render_chain
from throughline.core.seeding import generator
from throughline.drawn.concepts import FAMILIES, contrast_of, family_of, nearest_classes, read_data
from throughline.drawn.scenes import Background, Colours, Scene, pick
from throughline.drawn.words import colour_of, listed, named, plural


@dataclass(frozen=True)
class DescriberSettings:
    """part_mistakes: probability that the deciding part is believed the other way round; other parts are mistaken
    less often. format_faults: probability that a chain breaks the format in one of the ways of `FAULTS`."""

    part_mistakes: float = 0.08
    format_faults: float = 0.06


WORDING = "describer.yaml"
"""The lists of texts that a chain is put together from; what stands in them is said at the top of the file."""

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


def _stages(sight: Sight, believed: frozenset[str], cls: str, draw: np.random.Generator) -> dict[str, str]:
    """The five texts of a chain that ends in `cls`, by stage."""
    wording = read_data(WORDING)
    family, deciding = family_of(cls), family_of(cls).deciding
    words = {
        "cls": cls,
        "other": contrast_of(cls),
        "body": listed([part for part in family.required if part in believed]) or "shape",
        "main": sight.colours.main,
        "extras": listed([f"{colour_of(part, sight.colours)} {part}" for part in family.free if part in believed]),
        "deciding": deciding,
        "a_deciding": named(deciding),
        "of_deciding": f"{colour_of(deciding, sight.colours)} {deciding}",
        "joined": f"{deciding} are joined" if plural(deciding) else f"{named(deciding)} is joined",
        "belongs": "they belong" if plural(deciding) else "it belongs",
        "far": sight.background.far,
        "near": sight.background.near,
    }

    def say(options: Sequence[str]) -> str:
        return pick(draw, options).format_map(words)

    # The order of these draws is part of what a seed means.
    words["setting"] = say(wording["settings"][sight.background.kind])
    words["view"] = say(wording["views"][sight.viewpoint])
    words["size"] = say(wording["sizes"]["near" if sight.near else "distant"])
    summary, caption = say(wording["summary"]), say(wording["caption"])
    evidence = wording["present" if deciding in believed else "absent"]
    detail = say(wording["details" if words["extras"] else "no_details"])
    return {
        "SUMMARY": summary,
        "CAPTION": caption,
        "REASONING": detail + say(evidence["reasoning"]),
        "REFLECTION": f"{say(evidence['reflection'])} {say(wording['closing'])}",
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


FAULTS = (
    "ambiguous", "empty_stage", "missing_stage", "refusal", "repeated_stage", "trailing_text", "truncated",
    "wrong_order",
)  # fmt: skip
"""The ways in which a chain goes wrong, by the outcome that a parser should give it."""


def _with_fault(fault: str, lines: list[str], cls: str, draw: np.random.Generator) -> str:
    """A well-formed chain that ends in `cls`, line by line, gone wrong in one of the ways of `FAULTS`."""
    wording, tags = read_data(WORDING), [line.split(" ")[0] for line in lines if line.startswith("<")]
    match fault:
        case "ambiguous":
            lines[-1] = lines[-1].replace(cls, f"{cls} or {contrast_of(cls)}")
        case "empty_stage":
            gone = int(draw.integers(len(tags)))
            lines[gone] = f"{tags[gone]} {tags[gone].replace('<', '</')}"
        case "missing_stage":
            del lines[int(draw.integers(len(lines)))]
        case "refusal":
            return pick(draw, wording["refusal"])
        case "repeated_stage":
            twice = int(draw.integers(len(tags)))
            lines.insert(twice, lines[twice])
        case "trailing_text":
            lines.append(pick(draw, wording["trailing"]))
        case "truncated":
            words = "\n".join(lines[:-1]).split(" ")
            return " ".join(words[: int(draw.integers(len(words) // 4, len(words) - 2))])
        case "wrong_order":
            first = int(draw.integers(len(lines) - 1))
            lines[first : first + 2] = reversed(lines[first : first + 2])
    return "\n".join(lines)


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
    cls = pick(draw, nearest_classes(believed))
    texts = _stages(sight, believed, cls, draw)
    text = render_chain(_in_format(texts, format))
    if draw.random() >= used.format_faults:
        return text
    # What follows an untagged answer belongs to it, and it has no place of its own to leave.
    untagged = ("trailing_text", "wrong_order") if format.answer_is_tail else ()
    fault = pick(draw, tuple(name for name in FAULTS if name not in untagged))
    return _with_fault(fault, text.split("\n"), cls, draw)
