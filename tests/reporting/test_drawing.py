from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from throughline.core.plot import Panel, Plot, Series
from throughline.reporting.drawing import drawn_figure, write_figures


def plot(name: str = "made") -> Plot:
    panel = Panel((Series("a line", (1, 2), (3, 4)),))
    return Plot(name, 'a "quoted" <figure>', (panel,), ("x", "y", "of"), ((1, 3.25, 'a,"b"'), (2, None, "c")))


def test_a_figure_is_left_as_svg_png_and_csv(tmp_path: Path) -> None:
    drawn = write_figures(tmp_path, [plot()])
    assert drawn["made"] == (tmp_path / "made.svg").read_text()
    root = ElementTree.fromstring(drawn["made"])
    assert root.get("aria-label") == 'a "quoted" <figure>' and root.get("viewBox")
    assert Image.open(tmp_path / "made.png").width > 900
    assert (tmp_path / "made.csv").read_text() == 'x,y,of\n1,3.25,"a,""b"""\n2,,c\n'


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_figures(tmp_path / folder, [plot()])
    for ending in ("svg", "png", "csv"):
        assert (tmp_path / "one" / f"made.{ending}").read_bytes() == (tmp_path / "two" / f"made.{ending}").read_bytes()


def test_figures_that_are_no_more_go_and_strangers_stay(tmp_path: Path) -> None:
    write_figures(tmp_path, [plot("old"), plot("kept")])
    (tmp_path / "mine.csv").write_text("a table of the reader's own")
    write_figures(tmp_path, [plot("kept")])
    assert {path.name for path in tmp_path.iterdir()} == {"kept.svg", "kept.png", "kept.csv", "mine.csv"}


def test_no_word_leaves_a_map_of_many_classes() -> None:
    names = [(place, f"cup {place}") for place in range(12)]
    heat = [[1 / 12] * 13] * 12
    panels = tuple(Panel(title=title, heat=heat, x_ticks=names, y_ticks=names) for title in ("first", "second"))
    wide = Plot("map", "a map", panels, ("x",), ((1,),), height=3.4, across=2, x_label="answer", shared="xy")
    figure = drawn_figure(wide)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in figure.axes for text in (axes.title, *axes.get_xticklabels())]
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
