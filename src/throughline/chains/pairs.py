"""Preference pairs: a side that is preferred and one that is rejected, each an image and a chain, which differ in one
thing. *Thinking*: another chain about the same image. *Perception*: another image, with the same chain.

Whoever makes pairs writes them into a folder, with the images made for them; training reads them back.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256, read_json_lines, write_json_lines
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.views import View, view_of

FILE = "pairs.jsonl"


@dataclass(frozen=True)
class Side:
    """An image, the class that is concluded, and a chain about it; None for an image that no chain is about."""

    sample: Sample
    label: str
    chain: str | None


@dataclass(frozen=True)
class Pair:
    """`source` says how it was made: `thinking`, `perception`, or the name of another kind of rejected side. `changed`
    are the attributes in which the sides differ as they should, `distance` counts all in which they do. `verdict` says
    who knows it: the `scene`, the `graph`, `graph and model`; None where nobody does."""

    source: str
    chosen: Side
    rejected: Side
    changed: tuple[str, ...] = ()
    distance: int | None = None
    verdict: str | None = None

    @property
    def identity(self) -> list[object]:
        """All that training on it depends on."""
        sides = [[side.sample.image_sha256, side.label, side.chain] for side in (self.chosen, self.rejected)]
        return [self.source, *sides]

    @property
    def fault(self) -> str | None:
        """Why it is no pair; None for one."""
        if self.chosen.chain is None:
            return "the preferred side has no chain"
        own, other = self.chosen.sample, self.rejected.sample
        if own != other and other.parent_id == own.id and self.source != "perception":
            return None  # a part of the image taken away, which is of the same class
        if own == other and self.rejected.chain in (None, self.chosen.chain):
            return "both sides are the same"
        return f"both sides are of the class {self.chosen.label}" if self.chosen.label == self.rejected.label else None


@dataclass(frozen=True)
class _Line:
    """One line of the file. The rejected side's image is the other one's unless it is `rejected_sample`, an image of
    the set; `made_image`, a file of the folder; or a view of the other one's."""

    source: str
    sample_id: str
    label: str
    chosen: str
    rejected_label: str
    rejected: str | None = None
    rejected_sample: str | None = None
    made_image: str | None = None
    rejected_view: View | None = None
    changed: tuple[str, ...] = ()
    distance: int | None = None
    verdict: str | None = None


_LINE = TypeAdapter(_Line)


def write_pairs(folder: Path, pairs: Iterable[Pair]) -> None:
    """The file of a folder of pairs, whole or not at all."""
    lines = (_line(folder, pair) for pair in pairs)
    write_json_lines(folder / FILE, (_LINE.dump_python(line, mode="json", exclude_none=True) for line in lines))


def _line(folder: Path, pair: Pair) -> _Line:
    chosen, rejected = pair.chosen, pair.rejected
    made, other = rejected.sample.root == folder, rejected.sample.id != chosen.sample.id
    return _Line(
        source=pair.source,
        sample_id=chosen.sample.id,
        label=chosen.label,
        chosen=chosen.chain or "",
        rejected_label=rejected.label,
        rejected=rejected.chain,
        rejected_sample=rejected.sample.id if other and not made else None,
        made_image=rejected.sample.id if made else None,
        rejected_view=rejected.sample.view,
        changed=pair.changed,
        distance=pair.distance,
        verdict=pair.verdict,
    )


def read_pairs(folder: Path, images: ImageSet) -> list[Pair]:
    """The pairs in a folder, about images of the set.

    Raises a ThroughlineError, with the line, for a pair whose sides or whose classes are the same, and for an image
    that is not there.
    """
    path = folder / FILE
    if not path.is_file():
        raise ThroughlineError("no such file of pairs", path, "name a folder of pairs")
    pairs = []
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            pair = _pair(_LINE.validate_python(row), folder, images)
            fault = pair.fault
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        except ThroughlineError as error:  # of a view that there is not
            fault = str(error)
        except (KeyError, OSError) as error:
            fault = f"there is no image {error.filename if isinstance(error, OSError) else error.args[0]}"
        if fault is not None:
            raise ThroughlineError(f"no pair: {fault}", f"{path}, line {number}", "make it anew, or take the line out")
        pairs.append(pair)
    return pairs


def pairs_of_sources(pairs: Iterable[Pair], targets: Collection[str]) -> list[Pair]:
    """The pairs that show no image of a target domain on either side."""
    return [pair for pair in pairs if not {side.sample.domain for side in (pair.chosen, pair.rejected)} & {*targets}]


def _pair(line: _Line, folder: Path, images: ImageSet) -> Pair:
    """KeyError or OSError where an image is not there."""
    own = images.by_id[line.sample_id]
    other = images.by_id[line.rejected_sample] if line.rejected_sample is not None else own
    if line.made_image is not None:
        sha256 = file_sha256(folder / line.made_image)
        other = Sample(line.made_image, folder, own.domain, (line.rejected_label,), sha256, parent_id=own.id)
    if line.rejected_view is not None:
        other = view_of(own, line.rejected_view)
    chosen, rejected = Side(own, line.label, line.chosen), Side(other, line.rejected_label, line.rejected)
    return Pair(line.source, chosen, rejected, line.changed, line.distance, line.verdict)
