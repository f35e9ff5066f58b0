"""Where a run was made: versions, hardware, commit. Found out without torch; nothing of it enters a hash."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "throughline",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "pillow",
    "tokenizers",
    "safetensors",
)


def describe_environment() -> dict[str, Any]:
    """The content of `environment.json`. No host name, no user, no path."""
    return {
        "schema": 1,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: installed_version(name) for name in PACKAGES},
        "cores": usable_cores(),
        "processor": _processor(),
        "memory_bytes": usable_memory(),
        "gpus": _gpus(),
        "commit": _commit(),
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory(control_group: Path = Path("/sys/fs/cgroup/memory.max")) -> int | None:
    """Bytes of memory of the machine, or of the container if that has less; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _first_match(control_group, r"^(\d+)$")
    return min(total, int(limit)) if limit else total


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where there is none."""
    return next((distribution.version for distribution in importlib.metadata.distributions(name=package)), None)


def _processor() -> str | None:
    return _first_match(Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$") or platform.processor() or None


def _gpus() -> list[str]:
    """NVIDIA's driver lists its devices as files, so that no torch is needed to name them."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [name for file in files if (name := _first_match(file, r"^Model:\s*(.+)$")) is not None]


def _first_match(path: Path, pattern: str) -> str | None:
    try:
        match = re.search(pattern, path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return match[1].strip() if match else None


def _commit() -> str | None:
    """The commit of the checkout that this package is imported from; None when it is installed from a wheel."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(checkout, "status", "--porcelain", "--", "src") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(checkout: Path, *words: str) -> str:
    command = ["git", "-C", str(checkout), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()
