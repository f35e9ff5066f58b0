"""One checkpoint of each family for the whole session, loaded the way a user's is."""

from pathlib import Path

import pytest
from tests.mllm.tiny import FAMILIES, write_checkpoint

from throughline.mllm.load import Mllm, load_mllm


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the three families; read only."""
    return {family: write_checkpoint(family, tmp_path_factory.mktemp(family)) for family in FAMILIES}


@pytest.fixture(scope="session")
def mllms(checkpoints: dict[str, Path]) -> dict[str, Mllm]:
    """The three families loaded in fp32; a test that changes weights or adds adapters loads its own."""
    return {family: load_mllm(str(folder)) for family, folder in checkpoints.items()}


@pytest.fixture(params=[FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])])
def family(request: pytest.FixtureRequest) -> str:
    """One of them among the fast tests."""
    return str(request.param)


@pytest.fixture
def mllm(mllms: dict[str, Mllm], family: str) -> Mllm:
    return mllms[family]
