"""`throughline export MODEL --merge --out DIR`: base and adapter as one checkpoint, which any server loads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from throughline.cli.options import Shown, add_settings, given_settings
from throughline.cli.text import json_text
from throughline.core.errors import UsageError
from throughline.core.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from throughline.experiment.checkpoint_export import Exported


class Exporting(Settings):
    """What becomes one checkpoint, and how."""

    model: Annotated[str, Shown("MODEL", positional=True)]
    """Folder made by `throughline fit`; or a run's units/<unit>, or a round-<r> in it."""
    merge: bool = False
    """Fold the adapter into the base's weights (required; there is no other way yet)."""
    out: Annotated[Path, Shown("DIR")]
    """Folder to write; not there, or empty."""
    images: Annotated[Path | None, Shown("DIR")] = None
    """Images to compare both on, four of them (default: drawn noise)."""
    classes: Annotated[tuple[str, ...] | None, Shown("A,B,C")] = None
    """Classes the model was trained on (default: as recorded, or those of the run's images)."""
    checkpoint: Annotated[str | None, Shown("DIR")] = None
    """Where the base lies (default: as it was when trained)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the weights written (default: that of the base's files)."""
    quantization: Literal["none"] | None = None
    """None: merge into the base's weights of full width what was fitted beside 4-bit ones (default: refused)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Exporting)
    add_settings(parser, ModelSettings, ["hub", "device"])
    parser.add_argument("--json", action="store_true", help="print the checkpoint's record as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says how equal it is."""
    if not arguments.merge:
        raise UsageError("export writes merged checkpoints only, so far", do="add --merge")
    from throughline.experiment.checkpoint_export import export_merged

    exported = export_merged(
        arguments.model,
        arguments.out,
        ModelSettings(**given_settings(arguments, ("checkpoint", "hub", "quantization", "device"))),
        classes=arguments.classes,
        images=arguments.images,
        dtype=arguments.dtype,
    )
    print(json_text(exported.to_json()) if arguments.json else _as_text(exported, arguments.out))
    return 0


def _as_text(exported: Exported, out: Path) -> str:
    merged, check = exported.merged, exported.check
    lines = [
        f"merged {exported.method} into {exported.base['name']}, {merged.layers} layers, {merged.dtype}: {out}",
        f"opened anew, it differs from the adapter by at most {check.difference:.1e} nats "
        f"(tolerance {check.tolerance:.1e}; {check.values:,} tokens of {check.images} images; "
        f"the adapter moves the base by {check.adapter_change:.1e})",
    ]
    if merged.rounding:
        lines.append(
            f"rounding to {merged.dtype} changed the merged layers by {merged.rounding:.1%} of what was learnt "
            "(--dtype float32 keeps it all, in larger files)"
        )
    if exported.quantization != "none":
        lines.append(f"the adapter was fitted beside weights in {exported.quantization}, not those of full width")
    lines.append(f"serve it with: transformers serve {out}, or vllm serve {out}")
    return "\n".join(lines)
