"""The blocks of README.md and docs/ that are generated, each from what lies in evidence/ now, those of the reference
from the code. Called by `evidence.py docs`, which writes them, and by tests/test_documents.py, which compares them.

Where nothing was measured yet a block says so. Evidence that is malformed, not whole or contradicts itself is a
ThroughlineError: no document is made from it.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import baselines_block
import command_reference
import damage_block
import drift_study_block
import explanations_block
import in_context_block
import open_styles
import open_styles_head_block
import planted_block
import smol_block
from bench_blocks import BENCHES, bench_block, cost_of_demo, demo_profile, demo_seconds, demo_time, help_time
from budgets_block import budgets
from certificate_block import NOT_MEASURED, certificate
from chains_block import chains
from claims import PARTS, claims_block
from dependence_block import dependence
from generated import generated_names, replace_generated
from records import DemoKills, RealAnswers, SensitivityStudy, read_record
from reduced_run import read_group
from throughline.cli.doctor import LARGE_MODELS, in_gb
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.core.table import Table, tabulate
from throughline.drawn import DRAWN_NOTE
from throughline.experiment.config_files import load_config
from throughline.metrics.intervals import Interval
from throughline.metrics.paired import holm
from throughline.reporting.estimates import compare
from throughline.reporting.figures import accuracy_by_round
from throughline.reporting.groups import Group
from throughline.reporting.tables import comparison_table, difference_cells, results_table, rounds_table
from throughline.reporting.text import to_markdown
from throughline.runs.order import in_order
from throughline.training.methods import METHODS

FIRST = "first_laboratory"
"""The folder under evidence/ of the laboratory that was replaced."""
DOCUMENTS = {
    "README.md": "evidence",
    "docs/findings.md": "evidence",
    "docs/first_laboratory.md": f"evidence/{FIRST}",
    "docs/benchmarks.md": "evidence",
    "docs/reference.md": "evidence",
    "docs/answers.md": "evidence",
    "docs/howto/open_styles.md": "evidence",
}
"""The documents with generated blocks, and the folder of evidence that each shows: a laboratory that was replaced keeps
a page and a folder of its own."""
MATCHED = (("mtct_sarr", "cls_matched"), ("mtct_sarr", "mtct_matched"))
BESIDE = {
    "cls": "labels alone",
    "cls_matched": "labels alone, as many steps",
    "mtct_matched": "labels and teacher's chains, as many steps",
}
"""What the README sets beside the whole method."""


def rewrite(root: Path) -> list[Path]:
    """Writes every block of every document anew; gives the documents that changed. All blocks are made first."""
    changed = {path: text for path, text in rendered(root).items() if text != path.read_text()}
    for path, text in changed.items():
        write_atomically(path, text)
    return list(changed)


def rendered(root: Path) -> dict[Path, str]:
    """Every document as it has to stand."""
    group_of.cache_clear()
    texts = {}
    for name, evidence in DOCUMENTS.items():
        path = root / name
        text = path.read_text()
        for block in generated_names(text):
            if block not in BLOCKS:
                raise ThroughlineError(f"no generator makes the block {block}", path, f"there are {', '.join(BLOCKS)}")
            text = replace_generated(text, block, BLOCKS[block](root / evidence))
        texts[path] = text
    return texts


ANSWERS = ("label", "reasoning", "likelihood")
"""The answer paths of the full table."""

# the drawn world ----------------------------------------------------------------------------------------------------


group_of = cache(read_group)
"""Many blocks show the same run."""


def read_finished(evidence: Path, name: str) -> Group | None:
    """The results of a reduced run under evidence/; None where there is no such folder."""
    folder = evidence / name
    return group_of(folder) if folder.is_dir() else None


def results_block(answer: str) -> Callable[[Path], str]:
    """The block with one answer path's table of demo_full."""

    def block(evidence: Path) -> str:
        found = read_finished(evidence, "demo_full")
        return NOT_MEASURED if found is None else to_markdown(results_table(found, "all", answer))

    return block


def differences_block(answer: str) -> Callable[[Path], str]:
    """The block with one answer path's paired differences from cls."""

    def block(evidence: Path) -> str:
        found = read_finished(evidence, "demo_full")
        if found is None:
            return NOT_MEASURED
        table = comparison_table(found, answer, "cls")
        return to_markdown(table) if table else "No method was run on the same images as `cls`."

    return block


def seeds_so_far(evidence: Path) -> str:
    """Which of the full demo's seeds stand behind its tables."""
    found = read_finished(evidence, "demo_full")
    if found is None:
        return NOT_MEASURED
    planned = len(load_config("demo_full").seeds)
    if found.seeds == planned:
        return f"Measured with {found.seeds} seeds."
    images_alone = " Intervals over one seed are about images alone: with another seed they may lie elsewhere."
    return f"**Measured with {found.seeds} of {planned} seeds so far.**{images_alone if found.seeds == 1 else ''}"


def matched(evidence: Path) -> str:
    """mtct_sarr against the two controls that take as many optimiser steps, on every answer path."""
    found = read_finished(evidence, "demo_full")
    if found is None:
        return NOT_MEASURED
    compared = [
        (answer, item)
        for answer in found.answers
        for method, control in MATCHED
        for item in compare(found, answer, [(method, control)])
    ]
    if not compared:
        return "No control was run."
    adjusted = holm([item.paired.p_value for _, item in compared])
    rows = tuple(
        (
            f"{item.setup.name} − {item.baseline.name}",
            answer,
            *difference_cells(item.paired, p_value),
            str(item.units),
        )
        for (answer, item), p_value in zip(compared, adjusted, strict=True)
    )
    columns = ("difference", "answer path", "points", "95 % interval", "p", "p, Holm", "units")
    notes = ("Paired bootstrap as above, split all. Holm's correction is over the rows of this table.", DRAWN_NOTE)
    return to_markdown(Table("matched controls", columns, rows, notes), with_title=False)


def verdict(evidence: Path) -> str:
    """For the README: the whole method minus labels alone, and minus both controls, on every answer path."""
    found = read_finished(evidence, "demo_full")
    if found is None:
        return NOT_MEASURED
    rows = tuple((words, *(_gap(found, answer, name) for answer in found.answers)) for name, words in BESIDE.items())
    columns = ("whole method minus", *(f"{answer} path" for answer in found.answers))
    return to_markdown(Table("verdict", columns, rows, (DRAWN_NOTE,)), with_title=False)


def _gap(found: Group, answer: str, baseline: str) -> str:
    """`-1.4 (-3.1 to +0.1)`, in points."""
    [compared] = compare(found, answer, [("mtct_sarr", baseline)])
    points, interval, *_ = difference_cells(compared.paired, compared.adjusted_p)
    return f"{points} ({interval})"


def claims(part: str) -> Callable[[Path], str]:
    """The paper's claims of one kind beside demo_full's numbers."""
    return lambda evidence: claims_block(part)(evidence, read_finished(evidence, "demo_full"))


def sensitivity(evidence: Path) -> str:
    """The effect of settings."""
    found = read_record(evidence / "sensitivity.json", SensitivityStudy)
    if found is None:
        return NOT_MEASURED
    rows = tuple(
        (
            f"{one.setting}: {row.value}",
            row.method,
            row.answer,
            percent_of(row.accuracy),
            "" if row.points is None else f"{row.points.mean:+.1f} ({row.points.low:+.1f} to {row.points.high:+.1f})",
            "" if row.p_value is None else f"{row.p_value:.3f}",
        )
        for one in found.found
        for row in one.rows
    )
    notes = (
        f"`{found.command}`: one style held out, three seeds. Points: difference from the first value, for rounds from "
        "the round before; paired bootstrap over seeds and images. Not corrected for the number of comparisons.",
        DRAWN_NOTE,
        found.environment.sentence(),
    )
    columns = ("setting", "method", "answer path", "accuracy, %", "points", "p")
    return to_markdown(Table("settings", columns, rows, notes), with_title=False)


def percent_of(value: Interval) -> str:
    """`45.1 (42.0 to 48.2)`."""
    return f"{100 * value.mean:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def rounds(evidence: Path) -> str:
    """What the rounds sampled and accepted, and the accuracy after each."""
    found = read_finished(evidence, "demo_full")
    if found is None:
        return NOT_MEASURED
    table = rounds_table(found)
    parts = [to_markdown(table)] if table else []
    return "\n".join([*parts, to_markdown(_accuracy_by_round(found))])


def _accuracy_by_round(found: Group) -> Table:
    shares = accuracy_by_round(found, "all").set_index(["setup", "round", "answer"])["accuracy"]
    rows = []
    for method in in_order(shares.index.unique("setup"), METHODS):
        for number in sorted(set(shares[method].index.unique("round"))):
            # Round 0 is where the method starts from: its parent, finished.
            name = f"0 ({METHODS[method].starts_from})" if number == 0 else str(number)
            cells = (shares.get((method, number, answer)) for answer in found.answers)
            rows.append((method, name, *("X" if share is None else f"{100 * share:.1f}" for share in cells)))
    columns = ("method", "after round", *(f"{answer} path" for answer in found.answers))
    note = "Accuracy in percent on the held-out domain, split all, mean over targets and seeds."
    return Table("accuracy by round", columns, tuple(rows), (note, DRAWN_NOTE))


def kills(evidence: Path) -> str:
    """What ten kills and another number of workers changed."""
    found = read_record(evidence / "demo_kills.json", DemoKills)
    if found is None:
        return NOT_MEASURED
    after = ", ".join(f"{kill.after_seconds:.0f}" for kill in found.kills)
    with_workers = sum(kill.whole_group for kill in found.kills)
    rows = (
        (f"killed {len(found.kills)} times and restarted", "yes" if found.killed_equal else "**no**"),
        ("one worker instead of two", "yes" if found.workers_equal else "**no**"),
    )
    table = Table(
        "kills",
        ("run", f"all {found.result_lines} results lines equal, except for seconds"),
        rows,
        (
            f"`{found.command}`, SIGKILL {after} seconds after the start and each restart: {with_workers} times to the "
            "parent process and its workers, otherwise to the parent process alone.",
            found.environment.sentence(),
        ),
    )
    return to_markdown(table, with_title=False)


# real images --------------------------------------------------------------------------------------------------------


def digits_block(shift: str) -> Callable[[Path], str]:
    """The block with the tables of one shift of the handwriting scans."""

    def block(evidence: Path) -> str:
        found = read_finished(evidence, f"digits_{shift}")
        if found is None:
            return NOT_MEASURED
        parts = []
        for answer in found.answers:
            parts.append(to_markdown(results_table(found, "all", answer)))
            compared = comparison_table(found, answer, "zero_shot")
            parts += [to_markdown(compared)] if compared else []
        return "\n".join(parts)

    return block


def real_answers(evidence: Path) -> str:
    """What the answer parser makes of published answers of real models."""
    found = read_record(evidence / "real_answers.json", RealAnswers)
    if found is None:
        return NOT_MEASURED
    columns = {
        "model": lambda row: row.model,
        "images": lambda row: row.images,
        "form": lambda row: row.form,
        "answers": lambda row: str(row.answers),
        "state a class": lambda row: str(row.states_a_class),
        "another class": lambda row: str(row.wrong),
        "lost": lambda row: str(row.lost),
    }
    notes = (f"Read {found.read}, {found.date}. Sources: {'; '.join(found.sources)}.",)
    return to_markdown(tabulate("answers", found.rows, columns, notes), with_title=False)


# README -------------------------------------------------------------------------------------------------------------


def picture(evidence: Path) -> str:
    """The report's pictures, once they were taken."""
    shown = {"report": "The report page of a run", "report-chains": "Chains, each token shaded by its probability"}
    paths = {f"docs/images/{name}.png": said for name, said in shown.items()}
    if not all((evidence.parent / path).is_file() for path in paths):
        return f"Pictures of the report: {NOT_MEASURED}"
    return "\n\n".join(f"![{said}]({path})" for path, said in paths.items())


def gpu_memory(_evidence: Path) -> str:
    """`throughline doctor`'s estimates; they come from its code, not from evidence."""
    rows = tuple(
        (
            model.checkpoint,
            *(in_gb(size) for size in (model.weights, model.adapter, model.activations, model.memory)),
        )
        for model in LARGE_MODELS
    )
    columns = ("checkpoint", "weights, bf16", "adapter with AdamW", "allowance for activations", "GPU memory")
    note = "Estimates for LoRA r=8, one image's tree at a time, gradient checkpointing; not measured."
    return to_markdown(Table("memory", columns, rows, (note,)), with_title=False)


BLOCKS: dict[str, Callable[[Path], str]] = {
    "certificate": certificate,
    "budgets": budgets,
    **{f"results-{answer}": results_block(answer) for answer in ANSWERS},
    **{f"differences-{answer}": differences_block(answer) for answer in ANSWERS},
    "matched": matched,
    "verdict": verdict,
    "seeds-so-far": seeds_so_far,
    "rounds": rounds,
    **{f"claims-{part}": claims(part) for part in PARTS},
    **explanations_block.BLOCKS,
    "dependence": dependence,
    "sensitivity": sensitivity,
    "kills": kills,
    "digits-rotation": digits_block("rotation"),
    "digits-colour": digits_block("colour"),
    "chains": chains,
    "real-answers": real_answers,
    **{f"bench-{name.replace('_', '-')}": bench_block(name) for name in BENCHES},
    "demo-time": demo_time,
    "demo-seconds": demo_seconds,
    "demo-profile": demo_profile,
    "cost-of-demo": cost_of_demo,
    "help-time": help_time,
    "picture": picture,
    "gpu-memory": gpu_memory,
    **open_styles.BLOCKS,
    **open_styles_head_block.BLOCKS,
    **damage_block.BLOCKS,
    **drift_study_block.BLOCKS,
    **planted_block.BLOCKS,
    **in_context_block.BLOCKS,
    **smol_block.BLOCKS,
    **baselines_block.BLOCKS,
    **command_reference.BLOCKS,
}
