from dataclasses import dataclass
from typing import Any

import pytest

from throughline.benchmarks.contenders import with_random_lora
from throughline.benchmarks.workload import Workload, class_list, make_workload, tokenizer_texts
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.load import Mllm


@dataclass(frozen=True)
class Step:
    """What a step needs: the pocket with LoRA, and two images with 7 classes."""

    mllm: Mllm
    model: Any
    work: Workload


@pytest.fixture(scope="session")
def pocket_step() -> Step:
    mllm = random_mllm(GEOMETRIES["pocket"], tokenizer_texts())
    work = make_workload(mllm.chat, GEOMETRIES["pocket"].image_size, class_list(7), batch=2)
    return Step(mllm, with_random_lora(mllm), work)
