"""A concept graph is read from a file, or refused with the line at fault."""

from pathlib import Path

import pytest

from throughline.chains.graph_files import read_graph, write_graph
from throughline.core.errors import ThroughlineError
from throughline.drawn.concepts import CLASSES, CONCEPTS, GRAPH, PARTS, contrast_of, family_of

VESSELS = """categories:
  parts: [handle, basin]
  shapes: [parts, stripe]
synonyms:
  handle: [grip, ear]
classes:
  cup: {handle: 1, basin: 1, stripe: 0}
  bowl: {handle: -1, basin: +1}
"""


def written(folder: Path, text: str, name: str = "graph.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_graph_is_read_from_yaml(tmp_path: Path) -> None:
    graph = read_graph(written(tmp_path, VESSELS))
    assert graph.signs == {"cup": {"handle": 1, "basin": 1}, "bowl": {"handle": -1, "basin": 1}}
    assert graph.categories == {"parts": ("handle", "basin"), "shapes": ("handle", "basin", "stripe")}
    assert graph.synonyms == {"handle": ("grip", "ear")}
    assert graph.attributes == ("handle", "basin", "stripe")
    assert graph.deciding("cup", "bowl") == ("handle",)
    assert graph.nearest("cup") == ("bowl",)


def test_a_table_of_edges_is_the_same_graph(tmp_path: Path) -> None:
    table = (
        "class,attribute,sign,category,synonyms\n"
        "cup,handle,1,parts,grip|ear\ncup,basin,1,parts,\ncup,stripe,0,shapes,\n"
        "bowl,handle,-1,,\nbowl,basin,1,,\n"
    )
    graph = read_graph(written(tmp_path, table, "graph.csv"))
    assert graph.signs == read_graph(written(tmp_path, VESSELS)).signs
    assert graph.categories == {"parts": ("handle", "basin"), "shapes": ("stripe",)}
    assert graph.synonyms == {"handle": ("grip", "ear")}


def test_an_edge_to_a_category_is_one_to_all_its_attributes(tmp_path: Path) -> None:
    text = "categories: {wet: [keel, oar]}\nclasses:\n  boat: {wet: 1}\n  car: {wet: -1}\n"
    assert read_graph(written(tmp_path, text)).signs == {"boat": {"keel": 1, "oar": 1}, "car": {"keel": -1, "oar": -1}}


def test_a_written_graph_is_read_back(tmp_path: Path) -> None:
    for graph in (GRAPH, read_graph(written(tmp_path, VESSELS))):
        write_graph(tmp_path / "again.yaml", graph)
        assert read_graph(tmp_path / "again.yaml") == graph


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("classes:\n  a: {x: 1}\n  b: {x: 1}\n", 2, "no attribute decides between a and any other"),
        ("categories: {c: [x]}\nclasses:\n  a: {x: 1, c: -1}\n  b: {x: -1}\n", 3, "contradict each other"),
        ("classes:\n  a: {x: 1}\n  a: {x: -1}\n", 3, "a is given twice"),
        ("categories: {c: [x, y]}\nclasses:\n  a: {x: 1}\n  b:\n    x: -1\n    xx: 1\n", 6, "unknown attribute, xx"),
        ("synonyms:\n  x: [z]\n  y: [Z]\nclasses:\n  a: {x: 1, y: 1}\n  b: {x: -1}\n", 3, "a name of x and of y"),
        ("synonyms: {x: [y]}\nclasses:\n  a: {x: 1, y: 1}\n  b: {x: -1}\n", 1, "y is a name of y and of x"),
        ("categories:\n  c: [d, x]\n  d: [c]\nclasses:\n  a: {x: 1}\n  b: {x: -1}\n", 2, "contain each other"),
        ("classes:\n  a: {x: 2}\n  b: {x: -1}\n", 2, "the edge from a to x is 2"),
        ("classes:\n  a: {x: 1}\n  b: {x: -1}\n  c: {}\n", 4, "no attribute decides between c and any other"),
        ("classes: [a, b]\n", 1, "a mapping of names is expected"),
        ("clases:\n  a: {x: 1}\n", 1, "unknown key clases"),
        ("classes:\n  a: {x: 1\n  b\n", 4, "not valid YAML"),
    ],
)
def test_a_file_that_is_no_graph_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    with pytest.raises(ThroughlineError, match=what) as refused:
        read_graph(written(tmp_path, text))
    assert f"graph.yaml, line {line}" in str(refused.value)


def test_contradicting_rows_of_a_table_are_refused_with_their_line(tmp_path: Path) -> None:
    table = "class,attribute,sign\ncup,handle,1\nbowl,handle,-1\ncup,handle,-1\n"
    with pytest.raises(ThroughlineError, match=r"graph\.csv, line 4"):
        read_graph(written(tmp_path, table, "graph.csv"))


def test_the_drawn_world_has_the_graph_that_its_scenes_follow() -> None:
    assert GRAPH.attributes == PARTS
    for label in CLASSES:
        assert GRAPH.deciding(label, contrast_of(label)) == (family_of(label).deciding,)
        assert GRAPH.nearest(label)[0] == contrast_of(label)
        assert GRAPH.required(label) == {part for part, sign in CONCEPTS[label].items() if sign == 1}
