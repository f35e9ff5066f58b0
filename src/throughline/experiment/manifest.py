"""The manifests of a run: of each image set the images that its units ask about, with the hash of each file, on disk
before the first unit starts. A resumed run compares.

An image stands there by its id, so predictions and manifest join; with its views and examples, which are drawn from a
seed, it is all that a table's models have in common. Called by `run`.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.domains.manifests import manifest_rows
from throughline.domains.samples import ImageSet
from throughline.domains.tables import COLUMNS, Row, image_table, read_csv
from throughline.evaluation.folds import measure_only
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import own_config
from throughline.runs.folder import place_of
from throughline.runs.unit import VALIDATE, Unit


def fix_manifests(
    run_folder: Path, units: Sequence[Unit], config: RunConfig, sets: Sequence[ImageSet], renew: bool
) -> None:
    """Writes what the units ask about: manifest.csv, manifest-2.csv, ... of each image set. Unless `renew`, raises a
    ThroughlineError where an earlier call on the folder fixed other images in a domain that is asked about; further
    ones may be added."""
    named = {images.name: images for images in sets}
    images_of = cache(lambda name, *fold: measure_only(named[name], *fold).test)
    asked: dict[str, set[str]] = {name: set() for name in named}
    for unit in units:
        if unit.targets and unit.kind != VALIDATE:
            own, _ = own_config(unit, config, sets)
            of_targets = images_of(unit.dataset, unit.targets, own.data.trial_seed, own.data.split_rule)
            asked[unit.dataset].update(s.id for s in own.evaluation.chosen(of_targets) if not own.evaluation.described)
    for position, (name, images) in enumerate(named.items()):
        path = run_folder / f"{place_of('manifest', position)}.csv"
        rows = manifest_rows(images, (sample for sample in images.samples if sample.id in asked[name]))
        if path.is_file() and not renew:
            _require_same(path, rows)
        write_atomically(path, image_table(rows))


def _require_same(path: Path, rows: Sequence[Row]) -> None:
    shown = (*COLUMNS, "image_sha256")
    before = read_csv(path, lambda names: {name: name for name in shown if name in names}).rows
    domains = {row["domain"] for row in rows}
    now = {row["image"]: {name: row[name] for name in shown} for row in rows}
    other = [row["image"] for row in before if row.get("domain") in domains and now.get(row["image"]) != row]
    if other:
        what = f"images that this run was begun with are changed or no longer asked about ({len(other):,}): {other[0]}"
        raise ThroughlineError(what, path, "undo the change, name another --out, or use --redo stale")
