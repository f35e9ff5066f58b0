"""Lines of code are counted by hand here, and the package is within its budget."""

import subprocess
import sys
from pathlib import Path

from code_lines import Lines, count_lines, count_rooms

ROOT = Path(__file__).parent.parent
BUDGET = 29_108
"""Of the package today, by what it can do; a feature that needs more says why where it raises this. The redraw aimed at
20,000, and what came after it at 700 for each of two issues: 21,400. It ended 600 above, of which what nothing in the
package calls went to `bench`, and nothing may add to the rest unseen. Above that, 70 are the rows of measured units and
the chains beside the card, and 211 a search over settings with DomainBed's four rules of selection. The fetcher of
archives (sources, hashes, resume, safe unpacking) is 178, a split that keeps concepts apart 44, the real images of
open_styles 198, the checkpoint smol, with LoRA on convolutions, 163, views of images with their corruptions 215.
Asking apart from training, about a sample or a view of the images and behind labelled examples, is about 230,
features and probes 120, three ways to count likelihoods, several models in one run and models behind endpoints 230,
the verb `ood` with its factors, curves and causes of errors 390. Manifests, of runs and as tables that are compared,
and VLMEvalKit's form of them are 128, concept graphs 208. Options in an order of each sample's own, at an endpoint,
too, are 48. Wordings from a file, with the classes in words, and descriptions in the place of images are 71. The
catalogue of 20 sets, their official forms and DrugOOD's molecules are 101, answers of several labels 21. A
cause of errors by the reference's own probe, and by words read anew, is 55, features of images in batches 17.
The shift map, robustness under views, what changed under them and published numbers of models under shift are 180.
Controls of labelled examples, shifts of them, and the context counted before a run are 130. Preference pairs, their
loss, the stage and the methods that learn from them, and what makes them about drawn images are 416.

Of reasoning drift, measures along a chain are 567, graphs out of chains and pairs about images that were not drawn 680,
rounds of preference and the protocol of interference 446; of several diagnoses an image, chains beside reports and
three more official forms 137. That is above what was allowed for drift, 1,500 in all, and has to come down. Feature-
level methods are 758, DomainBed's five sets out of their archives 218. What a row of a table cost, and a forecast of
hours for feature-level methods, are 152; that drift is asked of a finished run's adapters 66. Faults that a
reading of every room found, some forty, took 174."""

SOURCE = '''"""A module.

Of three lines of docstring."""

import os  # a comment behind code

# a comment of its own


class Thing:
    """One line."""

    size: int = 1
    """Under a field."""

    def text(self) -> str:
        return """a string
that is no docstring
"""


total = (
    1
    + 2
)
'''


def test_blanks_comments_and_docstrings_are_no_code() -> None:
    assert count_lines(SOURCE) == Lines(code=1 + 1 + 1 + 4 + 4, docstrings=3 + 1 + 1, files=1)


def test_rooms_are_the_folders_of_the_package(tmp_path: Path) -> None:
    for name in ("package/__init__.py", "package/room/a.py", "package/room/below/b.py", "package/other/c.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n" * (3 if "room" in name else 1))
    rooms = count_rooms(tmp_path)
    assert rooms == {"room": Lines(6, 0, 2), "__init__.py": Lines(1, 0, 1), "other": Lines(1, 0, 1)}
    assert next(iter(rooms)) == "room"


def run_on(folder: Path, budget: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "code_lines.py"), str(folder), "--budget", str(budget)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_more_code_than_the_budget_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n")
    assert run_on(tmp_path, 2).returncode == 0
    over = run_on(tmp_path, 1)
    assert over.returncode == 1 and "1 above the budget" in over.stderr


def test_the_package_is_within_its_budget() -> None:
    counted = run_on(ROOT / "src", BUDGET)
    assert counted.returncode == 0, counted.stderr
