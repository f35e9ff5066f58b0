"""Images that nobody calls drawn: the drawn world without its scenes, which stay with the tests as the truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from throughline.chains.graph_files import write_graph
from throughline.cli.main import main
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.concepts import GRAPH
from throughline.drawn.scenes import Scene, read_scenes
from throughline.drawn.world import write_world


@dataclass(frozen=True)
class Undrawn:
    """Images, a store of chains about them, their graph as a file, and what is in them."""

    images: ImageSet
    store: Path
    graph: Path
    scenes: Mapping[str, Scene]


@pytest.fixture(scope="session")
def undrawn(tmp_path_factory: pytest.TempPathFactory) -> Undrawn:
    folder = tmp_path_factory.mktemp("undrawn")
    root, store, graph = folder / "images", folder / "store", folder / "graph.yaml"
    write_world(root, per_class=2, seed=3, styles=("cartoon", "sketch"))
    scenes = read_scenes(root)
    assert main(["chains", "build", str(root), "--teacher", "drawn", "--out", str(store)]) == 0
    for name in ("scenes.jsonl", "world.json"):
        (root / name).unlink()
    write_graph(graph, GRAPH)
    return Undrawn(read_images(root), store, graph, scenes)
