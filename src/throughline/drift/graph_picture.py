"""What a concept graph says, as a table and as a picture of classes by attributes. For `throughline drift graph`."""

from collections.abc import Callable

from throughline.chains.concepts import ConceptGraph
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table, tabulate

_SHADE = 0.85
"""Of a required attribute."""
_CROSS = 6
"""The marker of an excluded one, by its place in the palette of `reporting.drawing`."""


def graph_table(graph: ConceptGraph) -> Table:
    """A row for each class: its edges, the classes nearest to it, and what decides between them."""
    columns: dict[str, Callable[[str], str]] = {
        "class": str,
        "required": lambda label: str(len(graph.required(label))),
        "excluded": lambda label: str(len(graph.signs[label]) - len(graph.required(label))),
        "nearest": lambda label: ", ".join(graph.closest(label)),
        "decided by": lambda label: "; ".join(", ".join(graph.deciding(label, name)) for name in graph.closest(label)),
    }
    title = f"{len(graph.signs):,} classes, {len(graph.attributes):,} attributes"
    return tabulate(title, sorted(graph.signs), columns)


def graph_plot(graph: ConceptGraph) -> Plot:
    """A map for each category: a filled square for a required attribute, a cross for an excluded one."""
    classes, groups, placed = sorted(graph.signs), dict[str, list[str]](), set[str]()
    for category, members in {**graph.categories, "": graph.attributes}.items():
        if own := [name for name in dict.fromkeys(members) if name not in placed]:
            groups[category] = own
            placed |= {*own}
    panels = []
    for category, attributes in groups.items():
        signs = [[graph.signs[label].get(name, 0) for name in attributes] for label in classes]
        crosses = [(x, y) for y, row in enumerate(signs) for x, sign in enumerate(row) if sign == -1]
        panels.append(
            Panel(
                title=category,
                heat=[[_SHADE * (sign == 1) for sign in row] for row in signs],
                series=(Series("", [x for x, _ in crosses], [y for _, y in crosses], "points", None, _CROSS),),
                x_ticks=list(enumerate(attributes)),
                y_ticks=list(enumerate(classes)),
            )
        )
    rows = tuple((label, name, graph.signs[label].get(name, 0)) for label in classes for name in graph.attributes)
    description = "Concept graph: required attributes of each class are filled, excluded ones crossed, free ones empty"
    height = 1.2 + 0.2 * len(classes)
    columns = ("class", "attribute", "sign")
    return Plot("graph", description, tuple(panels), columns, rows, height=height, across=len(panels), shared="y")
