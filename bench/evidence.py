"""The evidence: everything that is too long for the tests, from real commands to files under evidence/, and from
those to the tables of the documents.

    make evidence                          # all of it, in order; hours on two cores
    python bench/evidence.py demo-full     # one part; a stopped one goes on where it was
    python bench/evidence.py docs          # the generated blocks of README and docs anew

Evidence holds content: configs, versions, cores, results. No host, no path, no date.
"""

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import damage_block
import documents
import drift_study_block
import explanations_block
import open_styles
import open_styles_head_block
import planted_block
from baselines_study import compare_on_drawn_images, compare_on_real_images
from budgets import choose_budgets, gain_of_twice
from chains_study import study_chains
from commands import EVIDENCE, ROOT, SCRATCH, executable, throughline
from contact_sheet import contact_sheet
from damage import study_damage
from dependence import study_dependence
from dependence_block import RECORD, write_plots
from drift_study import study_drift
from explanations import explain
from in_context import ask_in_context
from kills import Plan, measure_kills
from merged_runs import merge_runs, reduce_part
from open_styles_head import SEEDS, ask, kinds_of, pooled_features, summarise
from pictures import take_pictures
from planted import DETECTORS, IMAGES, measure_planted, summarise_planted
from records import (
    Budgets,
    Dependence,
    OpenStylesHead,
    SensitivityStudy,
    read_record,
    this_machine,
    write_record,
)
from reduced_run import reduce_run
from sensitivity_study import study
from throughline.cli.demo import ANALYZED, TAMPERED
from throughline.cli.progress import progress
from throughline.core.errors import ThroughlineError
from throughline.domains.benchmarks import TABLE
from throughline.domains.folders import read_images
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.experiment.config_files import load_config
from throughline.mllm.checkpoints import SMOL
from throughline.mllm.load import load_mllm
from throughline.mllm.smol.assembly import ARCHITECTURE
from throughline.runs.reader import REDUCED_PREDICTIONS
from timings import BENCH_COMMANDS, bench, cost_of_demo, demo_profile, demo_time, help_time

FIRST = EVIDENCE / documents.FIRST
SHIFTS = ("rotation", "colour")


def demo_full() -> None:
    """Four targets, three seeds, matched controls and the analyses: evidence/demo_full, a fold at a time. A seed
    that all targets were measured with is shown from then on."""
    parts = EVIDENCE / "demo_full_parts"
    whole: list[Path] = []
    for seed in load_config("demo_full").seeds:
        for target in DOMAIN_STYLES:
            part = parts / f"{target}-seed{seed}"
            whole.append(part)
            if (part / REDUCED_PREDICTIONS).is_file():
                continue
            folder = f"runs/demo_full/{part.name}"
            only = ("--set", f"data.targets={target}", "--set", f"seeds={seed}")
            throughline("run", "demo_full", *only, "--out", folder)
            throughline("analyze", folder, "--limit", str(ANALYZED), "--methods", ",".join(TAMPERED))
            reduce_part(ROOT / folder, part)
        merged = merge_runs(whole, EVIDENCE / "demo_full")
        print(f"{len(merged.results):,} results lines of {len(merged.units)} units, seeds up to {seed}")
    shutil.rmtree(parts)


def digits() -> None:
    """Images nobody here drew: handwriting scans under both shifts, zero_shot and cls, with the first pocket."""
    for shift in SHIFTS:
        name = f"digits_{shift}"
        if not (ROOT / "runs" / "digits" / shift).exists():
            throughline("data", "digits", f"runs/digits/{shift}", "--shift", shift)
        throughline("run", f"bench/{name}.yaml", "--out", f"runs/{name}")
        reduce_run(ROOT / "runs" / name, FIRST / name)


def demo_kills() -> None:
    """The demo killed ten times against an undisturbed one, and with one worker; exit code 1 when they differ."""
    command = (str(executable()), "demo")
    found = measure_kills(Plan(command, "throughline demo", SCRATCH / "demo_kills", ROOT))
    write_record(EVIDENCE / "demo_kills.json", found)
    print(f"killed runs equal: {found.killed_equal}; one and two workers equal: {found.workers_equal}")
    if not (found.killed_equal and found.workers_equal):
        raise SystemExit("results differ: the evidence says so, the folders are in runs/evidence/demo_kills")


def chains() -> None:
    """What REFLECTION and early stopping buy: the describer on a drawn world, three of its seeds."""
    found = study_chains(SCRATCH / "chains")
    write_record(EVIDENCE / "chains.json", found)
    print(f"{len(found.builds)} builds of {found.images:,} images")


def build_open_styles() -> None:
    """open_styles with all families, from the package registries: its record, its contact sheet, and what splits let
    through."""
    folders = [SCRATCH / name for name in ("open_styles_more", "open_styles")]
    for folder, options in zip(folders, (["--more"], []), strict=True):
        shutil.rmtree(folder, ignore_errors=True)
        throughline("data", "fetch", "open_styles", str(folder.relative_to(ROOT)), *options)
    write_record(EVIDENCE / "open_styles.json", open_styles.document_build(ROOT, *folders))


def open_styles_head() -> None:
    """A linear head on the frozen tower of smol, by style held out, with concepts kept apart and without."""
    folder = SCRATCH / "open_styles"
    if not folder.is_dir():
        throughline("data", "fetch", "open_styles", str(folder.relative_to(ROOT)))
    images = read_images(folder / TABLE)
    with progress("looking at", "images") as report:
        features = pooled_features(load_mllm(SMOL), images, lambda done: report(done, len(images.samples)))
    cells, means = summarise(ask(images, features, report=print), kinds_of(images.domains))
    record = OpenStylesHead(
        command="python bench/evidence.py open-styles-head",
        images=len(images.samples),
        images_sha256=images.fingerprint(),
        tower=f"{ARCHITECTURE}, frozen, its last feature map averaged over all places",
        features=features.shape[1],
        seeds=list(SEEDS),
        cells=cells,
        means=means,
        environment=this_machine(),
    )
    write_record(EVIDENCE / open_styles_head_block.RECORD, record)


def smol() -> None:
    """smol on open_styles: as it is, with linear probes, and tuned on labels; needs an hour or two."""
    images = SCRATCH / "open_styles"
    if not images.is_dir():
        throughline("data", "fetch", "open_styles", str(images.relative_to(ROOT)))
    chains = ("methods=zero_shot", "evaluation.sample.per_class=4", "evaluation.answering.answers=reasoning")
    runs = {
        "smol": ("bench/smol.yaml",),
        "smol_chains": ("bench/smol.yaml", *(word for setting in chains for word in ("--set", setting))),
        "smol_cls": ("bench/smol_cls.yaml",),
    }
    for name, words in runs.items():
        if not (EVIDENCE / name / REDUCED_PREDICTIONS).is_file():
            throughline("run", *words, "--out", f"runs/{name}")
            reduce_run(ROOT / "runs" / name, EVIDENCE / name)


def screenshot(run_folder: Path) -> None:
    """The README's pictures, docs/images/report*.png, of a run's report page."""
    for path in take_pictures(run_folder / "report" / "index.html", ROOT / "docs" / "images"):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


def docs() -> None:
    """All generated blocks and figures from evidence/ as it stands now, the contact sheet from the world as it draws
    now."""
    contact_sheet(ROOT / "docs" / "images" / "contact-sheet.png", seed=0)
    write_plots(EVIDENCE, ROOT / "docs" / "images")
    for path in documents.rewrite(ROOT):
        print(f"rewritten: {path.relative_to(ROOT)}")


def sensitivity() -> None:
    """bench/sensitivity.yaml, the first pocket's, with one key changed at a time, and with five rounds."""

    def compared(base: Path, others: list[Path]) -> None:
        throughline("analyze", *(str(path.relative_to(ROOT)) for path in (base, *others)), "--what", "sensitivity")

    found = study(ROOT, lambda *words: throughline("run", *words), compared)
    record = SensitivityStudy(
        command="python bench/evidence.py sensitivity", found=list(found), environment=this_machine()
    )
    write_record(FIRST / "sensitivity.json", record)


def budgets() -> None:
    """Learning rate and epochs of each method, chosen on the source domains; exit code 1 where they are not enough."""
    kept = EVIDENCE / "budgets.json"
    known = read_record(kept, Budgets)
    found = choose_budgets(ROOT, partial(throughline, "run"), known, partial(write_record, kept))
    gain = gain_of_twice(found)
    print(f"cls at twice the steps: {100 * gain:+.1f} points on the source domains")
    if abs(gain) > found.tolerance:
        raise SystemExit(f"the budgets are not enough: {100 * found.tolerance:g} points were allowed")


def chosen_budgets() -> Budgets:
    """Those in evidence/. ThroughlineError where there are none yet."""
    path = EVIDENCE / "budgets.json"
    chosen = read_record(path, Budgets)
    if chosen is None:
        raise ThroughlineError("no budgets are chosen yet", path, "run python bench/evidence.py budgets")
    return chosen


def dependence() -> None:
    """Fewer training images, and a teacher with fewer or more mistakes, at the chosen budgets; after demo-full."""
    if not (EVIDENCE / "demo_full" / REDUCED_PREDICTIONS).is_file():
        raise ThroughlineError("the full table is not there yet", EVIDENCE, "run python bench/evidence.py demo-full")
    parts = EVIDENCE / "dependence_parts"
    run = partial(throughline, "run")
    values = study_dependence(ROOT, run, chosen_budgets(), EVIDENCE / "demo_full", parts)
    record = Dependence(command="python bench/evidence.py dependence", values=values, environment=this_machine())
    write_record(EVIDENCE / RECORD, record)
    shutil.rmtree(parts)


def explanations() -> None:
    """Two explanations of what the full table shows, each tried; after demo-full."""
    parts = EVIDENCE / "explanations_parts"
    run = partial(throughline, "run")
    for found in explain(ROOT, run, chosen_budgets(), EVIDENCE / "demo_full", parts):
        write_record(EVIDENCE / explanations_block.RECORD, found)
    shutil.rmtree(parts)


def drift_study() -> None:
    """Counterfactual preference against what it is compared with: two styles, three seeds; hours on two cores."""
    parts = EVIDENCE / "drift_study_parts"
    write_record(
        EVIDENCE / drift_study_block.RECORD, study_drift(ROOT, throughline, chosen_budgets(), parts, this_machine())
    )
    shutil.rmtree(parts)


def drift_planted() -> None:
    """Whether measures of drift tell chains with an error at a known place; minutes."""
    with progress("measuring", "images") as report:
        rows = measure_planted(IMAGES, report)
    write_record(EVIDENCE / planted_block.RECORD, summarise_planted(rows, DETECTORS, this_machine()))


def damage() -> None:
    """Whether `ood diagnose` names the cause, on damaged copies of the pocket; one part a copy."""
    parts = EVIDENCE / "damage_parts"
    found = study_damage(ROOT, throughline, parts)
    write_record(EVIDENCE / damage_block.RECORD, found)
    shutil.rmtree(parts)
    for judged in damage_block.JUDGED:
        print(f"{judged}: {sum(verdict.judged == judged for verdict in found.verdicts)} of {len(found.verdicts)}")


def in_context() -> None:
    """What labelled examples mend, on the drawn world and on handwriting scans under both shifts."""
    ask_in_context(ROOT, EVIDENCE, throughline)


def baselines() -> None:
    """Every method of the comparison on the drawn world: one table, a seed at a time; hours."""
    compare_on_drawn_images(ROOT, EVIDENCE, throughline)


def baselines_real() -> None:
    """Feature-level methods on open_styles with EfficientNet-Lite0: frozen features, and trained on a subset; hours."""
    compare_on_real_images(ROOT, EVIDENCE, throughline)


PARTS: dict[str, Callable[[], None]] = {
    "demo-full": demo_full,
    "digits": digits,
    "demo-kills": demo_kills,
    "demo-time": demo_time,
    "cost-of-demo": cost_of_demo,
    "help-time": help_time,
    **{f"bench-{name.replace('_', '-')}": partial(bench, name) for name in BENCH_COMMANDS},
    "chains": chains,
    "sensitivity": sensitivity,
    "budgets": budgets,
    "explanations": explanations,
    "dependence": dependence,
    "damage": damage,
    "drift-study": drift_study,
    "drift-planted": drift_planted,
    "in-context": in_context,
    "open-styles": build_open_styles,
    "open-styles-head": open_styles_head,
    "smol": smol,
    "baselines": baselines,
    "baselines-real": baselines_real,
    "docs": docs,
}


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(
        description="Writes evidence/ from real commands, and the documents from evidence/."
    )
    commands = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, part in PARTS.items():
        benched = BENCH_COMMANDS.get(name.removeprefix("bench-").replace("-", "_"))
        summary = f"`{benched}`" if benched else part.__doc__ or ""
        commands.add_parser(name, help=summary.splitlines()[0])
    picture = commands.add_parser("screenshot", help=(screenshot.__doc__ or "").splitlines()[0])
    picture.add_argument(
        "--run",
        type=Path,
        default=ROOT / "runs" / "demo",
        metavar="RUN",
        help="run folder (default: runs/demo)",
    )
    profile = commands.add_parser("demo-profile", help=(demo_profile.__doc__ or "").splitlines()[0])
    profile.add_argument("--when", choices=("before", "after"), default="after", help="which of the two it is")
    profile.add_argument("--source", type=Path, metavar="SRC", help="src of another checkout (default: this one's)")
    profile.add_argument("--commit", help="its commit (default: this checkout's)")
    arguments = parser.parse_args()
    try:
        if arguments.part == "screenshot":
            screenshot(arguments.run)
        elif arguments.part == "demo-profile":
            demo_profile(arguments.source, arguments.commit, arguments.when)
        else:
            PARTS[arguments.part]()
    except ThroughlineError as error:
        raise SystemExit(f"evidence: error: {error}") from None


if __name__ == "__main__":
    main()
