"""`throughline doctor`: what this machine has, what it can run, and what is missing for the rest.

Facts are gathered first (`inspect_machine`, the only part that looks around), then judged by pure functions.
Memory needs of the large models are estimates of ours, spelled out term by term and not measured.
Called by the command line; exit code 0 if the demo can run on this machine, else 1.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.experiment.environment import installed_version, usable_cores, usable_memory

GB = 10**9

# The demo's needs, allowances of ours: two worker processes of about 1 GB each (torch, the pocket checkpoint,
# one batch of small images) and as much again for the system; drawn images, adapters and a report on disk.
DEMO_MEMORY = 4 * GB
DEMO_DISK = 1 * GB

# LoRA parameters are kept in float32 with their gradient and AdamW's two moments: four times four bytes.
BYTES_PER_ADAPTER_PARAMETER = 16

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Package:
    """One requirement of pyproject.toml, Python's among them, and the version installed; None where there is none."""

    name: str
    required: str
    installed: str | None
    fits: bool

    def __str__(self) -> str:
        state = "is not installed" if self.installed is None else f"{self.installed} is not supported"
        return f"{self.name} {state} (required: {self.required or 'any'}): run make setup"


@dataclass(frozen=True)
class Library:
    """What importing a library gave: its version, or the fault in one line."""

    version: str | None
    fault: str | None = None

    def __str__(self) -> str:
        return self.version or f"does not load: {self.fault}"


@dataclass(frozen=True)
class Gpu:
    """One CUDA device; memory in bytes."""

    name: str
    memory: int
    free: int
    bf16: bool

    def __str__(self) -> str:
        return f"{self.name}, {in_gb(self.memory)} ({in_gb(self.free)} free), {'bf16' if self.bf16 else 'no bf16'}"


@dataclass(frozen=True)
class Machine:
    """All facts about a machine; sizes in bytes, None where the system does not say. A checkpoint in the Hugging Face
    `cache` is "here", "in part" or "absent"."""

    python: Package
    packages: tuple[Package, ...]
    torch: Library
    torch_cuda: str | None
    torchvision: Library
    gpus: tuple[Gpu, ...]
    cores: int
    memory: int | None
    folder: str
    folder_writable: bool
    folder_free: int
    cache: str
    cache_free: int
    browser: str | None
    checkpoints: Mapping[str, str]


@dataclass(frozen=True)
class LargeModel:
    """A model for one's own GPU and the terms of its memory estimate (LoRA r=8, bf16, one tree at a time).

    `weights` is the size of its bf16 weights in bytes, on disk and on the GPU. `adapter_parameters` counts
    r x (in + out) over the linear layers of decoder and vision tower. `activations` is an allowance in bytes.
    """

    name: str
    checkpoint: str
    weights: int
    adapter_parameters: int
    activations: int

    @property
    def adapter(self) -> int:
        """Bytes of the LoRA parameters with gradient and optimiser state."""
        return self.adapter_parameters * BYTES_PER_ADAPTER_PARAMETER

    @property
    def memory(self) -> int:
        """Bytes of GPU memory that training needs, estimated."""
        return self.weights + self.adapter + self.activations


# Activations, for a row of 2,048 tokens with gradient checkpointing: layer inputs kept (28 layers x 2,048 x
# width x 2 bytes), one layer computed anew (2,048 x (4 x feed-forward + 12 x width) x 2 bytes), logits of 512
# marked tokens (x 151,674 x 10 bytes: bf16, float32 and its gradient). That is 1.7 GB for 8B (width 3,584,
# feed-forward 18,944) and 1.2 GB for 2B (1,536 and 8,960); twice that for what was not counted (vision tower,
# attention, fragments), and 1 to 2 GB for CUDA itself. The 8B weights are 7.94 billion parameters, the 2B ones
# 2.1 billion, two bytes each.
LARGE_MODELS = (
    LargeModel("InternVL3-2B LoRA", "OpenGVLab/InternVL3-2B-hf", 4_200_000_000, 13_000_000, 3_500_000_000),
    LargeModel("InternVL3-8B LoRA", "OpenGVLab/InternVL3-8B-hf", 15_900_000_000, 24_000_000, 5_000_000_000),
)


@dataclass(frozen=True)
class Job:
    """A verdict: `runs` is "yes", "after download" or "no"; `missing` says why not and what to do."""

    name: str
    runs: str
    needs: str
    missing: tuple[str, ...]


def judge_demo(machine: Machine) -> Job:
    """Whether `throughline demo` can run: Python, packages, torch, memory, and a place to write."""
    checks = (
        (machine.memory is None or machine.memory >= DEMO_MEMORY, f"{in_gb(machine.memory)} of memory"),
        (machine.folder_writable, f"{machine.folder} is not writable: go to another folder or use --out"),
        (machine.folder_free >= DEMO_DISK, f"{in_gb(machine.folder_free)} free in {machine.folder}"),
    )
    missing = (*software_faults(machine), *(fault for fine, fault in checks if not fine))
    needs = f"about {in_gb(DEMO_MEMORY)} of memory and {in_gb(DEMO_DISK)} of disk (allowances)"
    return Job("demo", "no" if missing else "yes", needs, missing)


def judge_large(machine: Machine, model: LargeModel) -> Job:
    """Whether a LoRA of a large model can be trained here: software, a GPU, the weights."""
    fault = "Python or packages are not supported (see demo)" if software_faults(machine) else gpu_fault(machine, model)
    state, room = machine.checkpoints[model.checkpoint], machine.cache_free >= model.weights
    missing = [fault] if fault is not None else []
    runs = "no" if fault is not None else "yes" if state == "here" else "after download" if room else "no"
    if state != "here":
        missing.append(f"{model.checkpoint} is {state} in {machine.cache}: hf download {model.checkpoint}")
        if not room:
            missing.append(f"{in_gb(machine.cache_free)} free there, the download needs {in_gb(model.weights)}")
    needs = (
        f"about {in_gb(model.memory)} of GPU memory (estimate: {in_gb(model.weights)} weights in bf16, "
        f"{in_gb(model.adapter)} adapter with AdamW, {in_gb(model.activations)} allowance for activations)"
    )
    return Job(model.name, runs, needs, tuple(missing))


def software_faults(machine: Machine) -> list[str]:
    """What of Python, the packages and torch does not fit."""
    python, libraries = machine.python, (("torch", machine.torch), ("torchvision", machine.torchvision))
    return [
        *([] if python.fits else [f"Python {python.installed} is not {python.required}"]),
        *(str(package) for package in machine.packages if not package.fits),
        *(f"{name} {library}" for name, library in libraries if library.fault is not None),
    ]


def gpu_fault(machine: Machine, model: LargeModel) -> str | None:
    """What is missing in GPUs for a model; None if one of them has bf16 and enough free memory."""
    if machine.torch_cuda is None:
        return f"torch {machine.torch.version} is not a CUDA build"
    if not machine.gpus:
        return f"no CUDA device (no GPU, or a driver too old for CUDA {machine.torch_cuda})"
    best = max((gpu for gpu in machine.gpus if gpu.bf16), key=lambda gpu: gpu.free, default=None)
    if best is None:
        return "no GPU with bf16 (compute capability 8.0 and up)"
    if best.memory < model.memory:
        return f"{best.name} has {in_gb(best.memory)} of memory"
    if best.free < model.memory:
        return f"{best.name} has {in_gb(best.free)} of {in_gb(best.memory)} free: stop other programs that use it"
    return None


def in_gb(size: int | None) -> str:
    """Bytes in GB (10^9) with one decimal."""
    return "unknown" if size is None else f"{size / GB:.1f} GB"


def inspect_machine() -> Machine:
    """Looks around: installed packages, torch and its devices, cores, memory, disk, cached checkpoints."""
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        metadata = importlib.metadata.metadata("throughline")
    except importlib.metadata.PackageNotFoundError as error:
        raise ThroughlineError("throughline is not installed", do="run make setup") from error
    torch, torch_cuda, gpus = inspect_torch()
    folder, cache = Path.cwd(), Path(HF_HUB_CACHE)
    return Machine(
        python=compared("python", metadata["Requires-Python"], platform.python_version()),
        packages=compare_packages(metadata.get_all("Requires-Dist") or []),
        torch=torch,
        torch_cuda=torch_cuda,
        torchvision=import_library("torchvision")[1],
        gpus=gpus,
        cores=usable_cores(),
        memory=usable_memory(),
        folder=str(folder),
        folder_writable=os.access(folder, os.W_OK),
        folder_free=free_disk(folder),
        cache=str(cache),
        cache_free=free_disk(cache),
        browser=next(filter(None, map(shutil.which, BROWSERS)), None),
        checkpoints={model.checkpoint: checkpoint_state(model.checkpoint, cache) for model in LARGE_MODELS},
    )


def compare_packages(requirements: list[str]) -> tuple[Package, ...]:
    """Each plain requirement (extras and other platforms left out) beside the version installed."""
    from packaging.requirements import Requirement

    return tuple(
        compared(requirement.name, str(requirement.specifier), installed_version(requirement.name))
        for requirement in map(Requirement, requirements)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    )


def compared(name: str, required: str, installed: str | None) -> Package:
    """A requirement beside the version that is there."""
    from packaging.specifiers import SpecifierSet

    fits = installed is not None and SpecifierSet(required).contains(installed, prereleases=True)
    return Package(name, required, installed, fits)


def import_library(name: str) -> tuple[Any, Library]:
    """The module (None if it does not load) and its version or fault."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a torchvision that was built for another torch raises RuntimeError, for one
        return None, Library(None, " ".join(str(error).split()) or type(error).__name__)
    return module, Library(str(module.__version__))


def inspect_torch() -> tuple[Library, str | None, tuple[Gpu, ...]]:
    """torch as imported, the CUDA version it was built for (None: a CPU build), and its devices."""
    torch, library = import_library("torch")
    if torch is None:
        return library, None, ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return library, torch.version.cuda, tuple(_gpu(torch.cuda, index) for index in range(count))


def _gpu(cuda: Any, index: int) -> Gpu:
    with cuda.device(index):
        free, memory = cuda.mem_get_info()
        return Gpu(cuda.get_device_name(index), memory, free, cuda.is_bf16_supported(including_emulation=False))


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is or would be made."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free


def checkpoint_state(name: str, cache: Path) -> str:
    """Whether the cache holds a checkpoint's config and every one of its weight files; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    def cached(file: str) -> Path | None:
        path = try_to_load_from_cache(name, file, cache_dir=cache)
        return Path(path) if isinstance(path, str) else None

    index = cached("model.safetensors.index.json")
    weights = set(json.loads(index.read_text())["weight_map"].values()) if index else {"model.safetensors"}
    here = [cached(file) is not None for file in ("config.json", *weights)]
    return "here" if all(here) else "in part" if any(here) or index else "absent"


def describe(machine: Machine, jobs: tuple[Job, ...]) -> str:
    """The page for a reader."""
    fitting = sum(package.fits for package in machine.packages)
    build = f", {f'CUDA {machine.torch_cuda}' if machine.torch_cuda else 'no CUDA'} build"
    rows = [
        ("python", f"{machine.python.installed} (required: {machine.python.required})"),
        ("packages", f"{fitting} of {len(machine.packages)} as required"),
        *(("", str(package)) for package in machine.packages if not package.fits),
        ("torch", f"{machine.torch}{build if machine.torch.version else ''}"),
        ("torchvision", str(machine.torchvision)),
        *(("GPU", str(gpu)) for gpu in machine.gpus or ("no CUDA device",)),
        ("cores", str(machine.cores)),
        ("memory", in_gb(machine.memory)),
        ("disk", f"{in_gb(machine.folder_free)} free here, {in_gb(machine.cache_free)} in {machine.cache}"),
        *machine.checkpoints.items(),
        ("browser", machine.browser or f"none (optional; looked for {', '.join(BROWSERS)})"),
    ]
    lines = ["This machine", *(f"  {name:26} {fact}" for name, fact in rows), "", "What it can run"]
    for job in jobs:
        lines.append(f"  {job.name:26} {job.runs}; needs {job.needs}")
        lines += [f"  {'':26} - {reason}" for reason in job.missing]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead (sizes in bytes)")


def run(arguments: argparse.Namespace) -> int:
    """Prints facts and verdicts; 0 if the demo can run here, else 1."""
    machine = inspect_machine()
    jobs = (judge_demo(machine), *(judge_large(machine, model) for model in LARGE_MODELS))
    facts = {**asdict(machine), "jobs": [asdict(job) for job in jobs]}
    print(json.dumps(facts, indent=2) if arguments.json else describe(machine, jobs))
    return 0 if jobs[0].runs == "yes" else 1
