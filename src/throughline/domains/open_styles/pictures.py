"""Which pictures open_styles takes out of its archives: `open_styles.yaml` says it, by Unicode's subgroups of emoji and
by folders. Every picture comes with its concept where it has one, its author and its licence.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from throughline.core.yaml_text import parse_yaml

RULES: dict[str, Any] = parse_yaml(resources.files(__package__).joinpath("open_styles.yaml").read_text("utf-8"))
"""What `open_styles.yaml` says."""
KINDS = {"photo": "photo", "scene": "photo", "clipart": "clipart"}
"""By what the data file calls pictures in folders their domain: scenes are photographs that keep their frame."""

Picture = dict[str, Any]
"""What is known of one picture. `content` is an SVG text or a raster file, `file` where the archive has it, `scene`
whether it keeps its frame. `group` is its concept: an emoji's name, or empty where it is a concept of its own."""
Concepts = Mapping[str, tuple[str, str]]
"""By code points, `1f99c` or `1f415-200d-1f9ba`, the name and the class of an emoji."""


def find_pictures(folders: Mapping[str, Path]) -> Iterator[Picture]:
    """The pictures of all domains whose archive is unpacked in one of `folders`, in the order of the data file."""
    concepts = read_concepts(next(folders["unicode"].rglob("emoji-test.txt")).read_text("utf-8"))
    for archive, given in RULES["pictures"].items():
        yield from _in_folders(archive, given, folders[archive] / given["folder"], concepts)
    for domain, archive in (RULES["families"] | RULES["more"]).items():
        for code, picture in sorted(find_family(folders[archive], concepts).items()) if archive in folders else ():
            group, label = concepts[code]
            picture |= {"domain": domain, "label": label, "name": group.replace(" ", "-"), "group": group}
            yield picture | {"archive": archive, "scene": False} | RULES["archives"][archive]["credit"]


def read_concepts(text: str, subgroups: Mapping[str, str] = RULES["subgroups"]) -> Concepts:
    """Of the emoji in Unicode's `emoji-test.txt` whose subgroup has a class."""
    label, concepts = None, {}
    for line in text.splitlines():
        if line.startswith("# subgroup: "):
            label = subgroups.get(line.removeprefix("# subgroup: ").strip())
        named = re.match(r"([\dA-F ]+?) *; fully-qualified +# \S+ E[\d.]+ (.+)", line)
        if named and label is not None and named[2] not in RULES["without"]:
            concepts[_code(named[1].lower().replace(" ", "-"))] = named[2], label
    return concepts


def _code(points: str) -> str:
    """Without the sign that asks for a coloured picture, which some families write and others do not."""
    return points.replace("-fe0f", "")


def find_family(folder: Path, concepts: Concepts) -> dict[str, Picture]:
    """File and content of a family's emoji by code points: files named after these, or Iconify's `icons.json`, whose
    icons are named after the code points in `chars.json` or else as the emoji are."""
    found = {_code(path.stem): {"file": path.name, "content": path.read_bytes()} for path in folder.rglob("*.webp")}
    for path in folder.rglob("icons.json"):
        icons, chars = (json.loads(path.with_name(f"{name}.json").read_text("utf-8")) for name in ("icons", "chars"))
        named = {_squeezed(name): name for name in icons["icons"]}
        codes = {code: named.get(_squeezed(name), "") for code, (name, _) in concepts.items()}
        for code, name in (codes | {_code(code): name for code, name in chars.items()}).items():
            if icon := icons["icons"].get(name):
                box = " ".join(str(icon.get(side, icons[side])) for side in ("width", "height"))
                svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {box}">{icon["body"]}</svg>'
                found[code] = {"file": name, "content": svg.encode()}
    return {code: picture for code, picture in found.items() if code in concepts}


def _squeezed(name: str) -> str:
    return re.sub(r"\W", "", name.lower())


def _in_folders(archive: str, given: Mapping[str, Any], root: Path, concepts: Concepts) -> Iterator[Picture]:
    for kind, rule in [(name, rule) for name in KINDS for rule in given.get(name, ())]:
        named = {_words(name): name for name, label in concepts.values() if label == rule["label"]}
        named |= {_words(short): name for short, name in RULES["aliases"].items() if name in named.values()}
        for path in sorted(root.glob(rule["files"])):
            if path.stem in rule.get("without", ()) or path.stem not in rule.get("only", (path.stem,)):
                continue
            words = () if rule.get("numbered") else _words(path.stem)
            starts = (named[words[:end]] for end in range(len(words), 0, -1) if words[:end] in named)
            picture: Picture = {"file": path.relative_to(root).as_posix(), "content": path.read_bytes()}
            picture |= {"archive": archive, "domain": KINDS[kind], "label": rule["label"], "scene": kind == "scene"}
            picture |= {"group": next(starts, ""), "name": f"{archive}_{path.parent.name}_{path.stem}"}
            picture |= given.get("credits", {}).get(rule["files"], RULES["archives"][archive]["credit"])
            picture |= _credit(path, picture["content"])
            yield picture | {"licence": RULES["licences"].get(picture["licence"], picture["licence"])}


def _words(name: str) -> tuple[str, ...]:
    """The words of a name, without numbers and the `s` of a plural."""
    return tuple(word.rstrip("s") for word in re.findall(r"[a-z]+", name.lower()))


def _credit(path: Path, content: bytes) -> dict[str, str]:
    """Whose a picture is and where it is from, as far as a README beside it or its own SVG says so."""
    keys, readme = {"author": "Copyright", "licence": "License", "source": "Source"}, path.with_name("README")
    for paragraph in readme.read_text("utf-8").split("\n\n") if readme.is_file() else ():
        if path.name in paragraph.split():
            fields = dict(re.findall(r"^(\w+): *(.+)$", paragraph, re.MULTILINE))
            return {key: fields[field] for key, field in keys.items() if field in fields}
    if path.suffix == ".svg" and b"creator" in content:
        title = ElementTree.fromstring(content).findtext(".//{*}creator//{*}title")
        return {"author": title.strip()} if title and title.strip() else {}
    return {}
