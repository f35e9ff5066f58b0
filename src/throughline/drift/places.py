"""Where along a chain the answer is read, and what closes a chain that is cut off there.

A chain that stops inside a stage goes on with the end of that stage; then each class follows as the answer stage:

    <SUMMARY> A cup. </SUMMARY> <CAPTION> It has a   |   </CAPTION> <CONCLUSION> bowl </CONCLUSION>
"""

from collections.abc import Sequence
from dataclasses import dataclass

from throughline.chains.formats import ChainFormat, between_tags, tag_pattern

_HERE = "\0"


@dataclass(frozen=True)
class Place:
    """A chain as it stands before its token number `token`. `opened` is the stage that is open there, None between
    stages; `ended` the one whose end was just read, else None; `at_line_start` says whether a new line begins."""

    token: int
    opened: str | None
    ended: str | None
    at_line_start: bool


def places_of(chain: str, spans: Sequence[tuple[int, int]], form: ChainFormat) -> list[Place]:
    """One for each token of a chain, whose characters are `spans`, up to where its answer begins. Inside a tag it is
    the place before the tag: half a tag says nothing."""
    spelled = {name.casefold(): name for name in form.tagged_stages}
    tags, places, before = list(tag_pattern(form).finditer(chain)), list[Place](), 0
    for token, end in enumerate([0, *(end for _, end in spans[:-1])]):
        if places and any(tag.start() < end < tag.end() for tag in tags):
            places.append(places[-1])
            continue
        last = next((tag for tag in reversed(tags) if tag.end() <= end), None)
        stage = spelled[last["stage"].casefold()] if last else None
        closed = stage if last and last["closing"] else None
        ended = closed if last and last.end() > before else None
        places.append(Place(token, None if closed else stage, ended, end == 0 or chain[end - 1] == "\n"))
        if closed == form.tagged_stages[-1] if form.answer_is_tail else stage == form.answer_stage:
            break
        before = end
    return places


def read_at(places: Sequence[Place], every: int) -> list[Place]:
    """The places where the answer is read: at every `every`-th token, with 0 at none; always before the first token,
    at the ends of stages and where the answer begins."""
    chosen = [place for number, place in enumerate(places) if place.ended or (every and number % every == 0)]
    return sorted({place.token: place for place in (places[0], *chosen, places[-1])}.values(), key=lambda p: p.token)


def closing(form: ChainFormat, place: Place, answer: str) -> str:
    """What follows a chain that is cut off at a place, with this answer."""
    if place.opened is None:
        return "\n" * (not place.at_line_start) + between_tags(form, {form.answer_stage: answer})
    if place.opened == form.answer_stage:
        return between_tags(form, {form.answer_stage: answer}).partition(">")[2]
    return between_tags(form, {place.opened: _HERE, form.answer_stage: answer}).partition(_HERE)[2]
