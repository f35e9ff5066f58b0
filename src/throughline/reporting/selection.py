"""The tables of a search: what each selection rule gives, side by side, and what every draw has on the source domains.
Called at the end of a run, by the report verb and by the page."""

from dataclasses import replace

from throughline.core.table import Table
from throughline.reporting.groups import groups
from throughline.reporting.tables import results_table
from throughline.runs.draws import LAST, TRAINING_DOMAIN, choose, find_draws, first_answer
from throughline.runs.reader import Run
from throughline.runs.records import ResultsLine
from throughline.runs.unit import DRAW

SOURCES = "out of the source domains"
RULES_NOTE = "Rules as in DomainBed, each for one target and seed. The oracle looks at the target, as no user can."
DRAWS_NOTE = "Draw 0 is the config as written. Under a rule: for how many targets and seeds it chooses the draw."


def selection_tables(run: Run) -> tuple[Table, ...]:
    """For each group of results methods × rules, on the target's `in` split as in DomainBed, and methods × draws, on
    the source domains; only the latter where no target was measured. None without a search."""
    search = run.config.get("search")
    if not search:
        return ()
    answer, levels, chosen, by_rule, by_draw = first_answer(run), run.config["factors"][DRAW], set(), [], []
    for draws in find_draws(run):
        measured = [draw for draw in draws if draw.shares[TRAINING_DOMAIN] is not None]
        for rule in search["rules"] if measured else (LAST,):  # what trains nothing has one draw
            if (draw := choose(draws, rule)) is not None:
                chosen.add((rule, draw.name))
                lines = (line for line in run.results if line.unit == draw.name)
                by_rule += [replace(line, factors={**draw.others, "rule": rule}, metrics={}) for line in lines]
        for draw in measured:
            unit, share = draw.unit, draw.shares[TRAINING_DOMAIN] or 0.0
            about = (draw.name, unit.dataset, unit.model, unit.targets, unit.method, unit.seed)
            values = {key: v if isinstance(v, int | float) else str(v) for key, v in levels[str(draw.number)].items()}
            factors = {**draw.others, DRAW: draw.number, **values}
            by_draw.append(ResultsLine(*about, None, answer, SOURCES, 0, 0, share, factors=factors))
    tables = []
    for group in groups(replace(run, results=tuple(by_rule))):
        table = results_table(group, "in", answer)
        tables.append(replace(table, title=f"{table.title} · rules of selection", notes=(*table.notes, RULES_NOTE)))
    for group in groups(replace(run, results=tuple(by_draw))):
        table, rows = results_table(group, SOURCES, answer), []
        units = {group.setups[name].cells: list(own) for name, own in group.results.groupby("setup")["unit"]}
        for row in table.rows:
            own = units[row[: len(group.heads)]]
            counts = (sum((rule, name) in chosen for name in own) for rule in search["rules"])
            rows.append((*row[:-1], *(f"{count} of {len(own)}" for count in counts)))
        notes = (DRAWS_NOTE, *(note for note in table.notes if not note.startswith("Unparsed")))
        tables.append(Table(f"{table.title} · draws", (*table.columns[:-1], *search["rules"]), tuple(rows), notes))
    return tuple(tables)
