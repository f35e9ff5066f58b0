"""`throughline bench step`, `memory` and `gpu`: what a training step costs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from throughline.cli.bench.options import (
    Bench,
    add_ablate,
    add_classes,
    add_geometry,
    add_threads,
    geometries,
    sizes,
    told,
)
from throughline.cli.options import positive_int

if TYPE_CHECKING:
    from throughline.benchmarks.timing import BenchRow

LEFT_OUT = "shared tokens, packed rows, logits in chunks, LoRA in one node, norms in one node"


def _add_step_options(parser: argparse.ArgumentParser) -> None:
    add_geometry(parser, "pocket and bench-40m")
    add_classes(parser, (7, 65))
    parser.add_argument(
        "--tiles",
        type=sizes,
        default=(1, 6),
        metavar="N,N",
        help="tiles that an image is cut into; with more than one there is a thumbnail, too",
    )
    parser.add_argument(
        "--trials",
        type=positive_int,
        metavar="N",
        help="timed steps of each side (default: 9 on the pocket, else 3, with tiles 2)",
    )
    parser.add_argument(
        "--batch",
        type=positive_int,
        metavar="N",
        help="samples in a step (default: 4; with tiles 1, but on the pocket 4)",
    )
    add_threads(parser)
    add_ablate(parser, LEFT_OUT)


def _measure_step(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.step import StepSettings, measure_step

    settings = StepSettings(
        geometries=geometries(arguments, StepSettings.geometries),
        classes=arguments.classes,
        trials=arguments.trials,
        batch=arguments.batch,
        threads=arguments.threads,
        tiles=arguments.tiles,
        ablate=arguments.ablate,
    )
    return measure_step(settings, told)


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    add_geometry(parser, "bench-40m-151k")
    add_classes(parser, (65,))
    parser.add_argument("--tiles", type=positive_int, default=1, metavar="N", help="tiles that an image is cut into")
    parser.add_argument("--batch", type=positive_int, default=4, metavar="N", help="images behind an optimiser step")
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu", help="whose memory")
    add_threads(parser)
    add_ablate(parser, LEFT_OUT)


def _measure_memory(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.memory import MemorySettings, measure_memory
    from throughline.mllm.devices import pick_device

    settings = MemorySettings(
        geometries=geometries(arguments, MemorySettings.geometries),
        classes=arguments.classes,
        tiles=arguments.tiles,
        batch=arguments.batch,
        threads=arguments.threads,
        device=pick_device(arguments.device),
        ablate=arguments.ablate,
    )
    return measure_memory(settings, told)


def _add_gpu_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=positive_int, default=8, metavar="N", help="samples in a step")
    parser.add_argument("--trials", type=positive_int, default=10, metavar="N", help="timed steps of each side")
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="compute activations again in the backward pass"
    )
    # For the tests: the whole measurement on a small model, without a GPU.
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--geometry", default="internvl3-8b", help=argparse.SUPPRESS)


def _measure_gpu(arguments: argparse.Namespace) -> Sequence[BenchRow]:
    from throughline.benchmarks.gpu import GpuSettings, measure_gpu

    settings = GpuSettings(
        geometry=arguments.geometry,
        device=arguments.device,
        batch=arguments.batch,
        trials=arguments.trials,
        gradient_checkpointing=arguments.gradient_checkpointing,
    )
    return measure_gpu(settings, told)


STEP = Bench(
    "an MTCT training step as token trees against TRL's SFTTrainer and two separate sequences",
    _add_step_options,
    _measure_step,
)
MEMORY = Bench(
    "the memory of a training step beyond weights and optimiser state against TRL's SFTTrainer",
    _add_memory_options,
    _measure_memory,
)
GPU = Bench(
    "MTCT steps of InternVL3-8B's geometry on a CUDA GPU: time, utilisation, memory, hours of a fold",
    _add_gpu_options,
    _measure_gpu,
)
