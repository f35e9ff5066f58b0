"""`throughline export MODEL --merge --out DIR`: base and adapter as one checkpoint, which any server loads."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.cli.options import add_settings, words
from throughline.core.errors import UsageError
from throughline.experiment.config import ModelConfig

if TYPE_CHECKING:
    from throughline.experiment.checkpoint_export import Exported

SUMMARY = "a trained model as one checkpoint that servers load"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument(
        "model", metavar="MODEL", help="folder made by `throughline fit`; or a run's units/<unit>, or a round-<r> in it"
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="fold the adapter into the base's weights (required; there is no other way yet)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; not there, or empty")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="images to compare both on, four of them (default: drawn noise)"
    )
    parser.add_argument(
        "--classes",
        type=words,
        metavar="A,B,C",
        help="classes the model was trained on (default: as recorded, or those of the run's images)",
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="where the base lies (default: as it was when trained)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="type of the weights written (default: that of the base's files)",
    )
    parser.add_argument(
        "--quantization",
        choices=("none",),
        help="none: merge into the base's weights of full width what was fitted beside 4-bit ones (refused otherwise)",
    )
    add_settings(parser, ModelConfig, ["hub", "device"])
    parser.add_argument("--json", action="store_true", help="print the checkpoint's record as JSON on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says how equal it is."""
    if not arguments.merge:
        raise UsageError("export writes merged checkpoints only, so far", do="add --merge")
    from throughline.evaluation.saved_model import Base
    from throughline.experiment.checkpoint_export import export_merged

    exported = export_merged(
        arguments.model,
        arguments.out,
        Base(
            checkpoint=arguments.checkpoint,
            hub=arguments.hub,
            quantization=arguments.quantization,
            device=arguments.device,
        ),
        classes=arguments.classes,
        images=arguments.images,
        dtype=arguments.dtype,
    )
    if arguments.json:
        print(json.dumps(exported.to_json(), indent=2, ensure_ascii=False))
    else:
        print(_as_text(exported, arguments.out))
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
