"""The drawn world on disk: images as root/<style>/<class>/<index>.png, and a line of truth for each.

`throughline data draw` and the demo write it, the describer reads its scenes back. A killed write is completed by
the same call; another world is never mixed into a folder that holds one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import (
    canonical_json,
    file_sha256,
    read_json_lines,
    readable_os_errors,
    write_atomically,
    write_json_lines,
)
from throughline.core.seeding import generator
from throughline.domains.images import image_bytes
from throughline.drawn import SCENES
from throughline.drawn.concepts import CLASSES
from throughline.drawn.scenes import Scene, WorldSettings, sample_scene
from throughline.drawn.styles import DOMAIN_STYLES, check_style, render

VERSION = 3  # raised when the same seed draws other pixels
WORLD = "world.json"


def planned_scenes(
    *, per_class: int, seed: int, styles: Sequence[str] = DOMAIN_STYLES, settings: WorldSettings | None = None
) -> Iterator[tuple[str, str, Scene]]:
    """(sample id, style, scene) of every image of a world, in the order of styles, classes, indices.

    With `spurious` above 0, a scene stands before its class's tied background with that probability.
    """
    used = settings or WorldSettings()
    for style in sorted(set(styles)):
        for cls in CLASSES:
            for index in range(used.images_of(cls, per_class)):
                tied = generator(seed, "spurious", style, cls, index).random() < used.spurious
                background = cls if tied else None
                scene = sample_scene(seed, style, cls, index, background, used.occlusion, used.noise)
                yield f"{style}/{cls}/{index:04d}.png", style, scene


def write_world(
    out: str | Path,
    *,
    per_class: int,
    seed: int,
    styles: Sequence[str] = DOMAIN_STYLES,
    settings: WorldSettings | None = None,
    size: int = 64,
) -> int:
    """Writes the world under `out` and returns its number of images; `per_class` counts a class in one style.

    An unfinished folder of the same world is completed. Raises `ThroughlineError` when `out` holds anything else,
    and on an unknown style or a size the renderer refuses, before anything is written.
    """
    out = Path(out)
    if per_class < 1:
        raise ThroughlineError(f"{per_class} images per class", out, "ask for at least 1")
    if not styles:
        raise ThroughlineError("no style is named", out, f"choose from {', '.join(DOMAIN_STYLES)}")
    for style in styles:
        check_style(style, size)
    used = settings or WorldSettings()
    description = {
        "kind": "drawn world",
        "version": VERSION,
        "per_class": per_class,
        "seed": seed,
        "styles": sorted(set(styles)),
        "settings": asdict(used) | {"class_weights": sorted(map(list, used.class_weights))},
        "size": size,
    }
    _claim(out, description)
    plan = planned_scenes(per_class=per_class, seed=seed, styles=styles, settings=used)
    rows = [_written(out, name, scene, style, size) for name, style, scene in plan]
    write_json_lines(out / SCENES, rows)
    return len(rows)


def read_size(root: Path) -> int:
    """How many pixels wide the images of a written world are."""
    return int(next(iter(read_json_lines(root / WORLD)))["size"])


def _claim(out: Path, description: dict[str, Any]) -> None:
    """Makes the folder this world's, or finds that it is; anything else in it is an error."""
    with readable_os_errors(out):
        held = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if WORLD in held:
        present = next(iter(read_json_lines(out / WORLD)), {})
        names = sorted(description.keys() | present.keys())
        different = [name for name in names if description.get(name) != present.get(name)]
        if different:
            what = f"another drawn world is here; it differs in {', '.join(different)}"
            raise ThroughlineError(what, out, "name an empty folder")
    # A killed first write may have left its temporary file.
    elif any(not name.startswith(f".{WORLD}.") for name in held):
        raise ThroughlineError("the folder is not empty", out, "name an empty folder")
    else:
        write_atomically(out / WORLD, canonical_json(description) + "\n")


def _written(out: Path, name: str, scene: Scene, style: str, size: int) -> dict[str, Any]:
    """Draws an image unless it is there; its line of `scenes.jsonl`. Files appear whole, so what is there is right."""
    path = out / name
    if not path.is_file():
        write_atomically(path, image_bytes(render(scene, style, size)), durable=False)
    return {"sample_id": name, "image_sha256": file_sha256(path), "style": style, "scene": scene.to_json()}
