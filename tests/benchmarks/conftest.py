from dataclasses import replace

import pytest

from throughline.benchmarks.workload import Workload, class_list, make_workload, random_model, with_random_lora


@pytest.fixture(scope="session")
def work() -> Workload:
    """What a step needs: the pocket with LoRA, and two images with 7 classes."""
    mllm = random_model("pocket")
    return make_workload(mllm, with_random_lora(mllm), "pocket", class_list(7), batch=2)


def first_sample(work: Workload) -> Workload:
    """The workload with its first sample alone."""
    return replace(work, pictures=work.pictures[:1], examples=work.examples[:1])
