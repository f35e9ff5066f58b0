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
    """Folder made by `throughline fit`, or units/<unit> of a run, or a round-<r> in it."""
    merge: bool = False
    """Add the adapter to the base weights (required; there is no other way yet)."""
    out: Annotated[Path, Shown("DIR")]
    """Folder to write; it must be new or empty."""
    images: Annotated[Path | None, Shown("DIR")] = None
    """Images for comparing checkpoint and adapter, of which four are used (default: random noise)."""
    classes: Annotated[tuple[str, ...] | None, Shown("A,B,C")] = None
    """Classes the model was trained on (default: as recorded, or those of the run's images)."""
    checkpoint: Annotated[str | None, Shown("DIR")] = None
    """Folder of the base checkpoint (default: as it was when trained)."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the written weights (default: that of the base's files)."""
    quantization: Literal["none"] | None = None
    """With none, an adapter trained on 4-bit weights is merged into the full weights (default: refused)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    add_settings(parser, Exporting)
    add_settings(parser, ModelSettings, ["hub", "device"])
    parser.add_argument("--json", action="store_true", help="print the checkpoint's record as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says how equal it is."""
    if not arguments.merge:
        raise UsageError("export can only write merged checkpoints so far", do="add --merge")
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
        f"opened again, it differs from the adapter by at most {check.difference:.1e} nats "
        f"(tolerance {check.tolerance:.1e}; {check.values:,} tokens of {check.images} images; "
        f"the adapter changes the base by {check.adapter_change:.1e})",
    ]
    if merged.rounding:
        lines.append(
            f"rounding to {merged.dtype} changed the merged layers by {merged.rounding:.1%} of the adapter's change "
            "(--dtype float32 loses nothing but needs larger files)"
        )
    if exported.quantization != "none":
        lines.append(f"the adapter was trained with base weights in {exported.quantization}, not in full precision")
    lines.append(f"serve it with: transformers serve {out}, or vllm serve {out}")
    return "\n".join(lines)
