"""Which images are asked about, fixed with the hash of each file: written, read back, and compared with the files."""

import csv
import hashlib
import json
import string
from collections import Counter

import pandas as pd
import pytest

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import balanced


@pytest.fixture
def sample(capsys):
    """Runs `throughline data sample`: what it printed, or the one line of its error."""

    def run(*words):
        code = main(["data", "sample", *map(str, words)])
        printed = capsys.readouterr()
        if code:
            (line,) = printed.err.splitlines()
            assert line.startswith("throughline: error: ") and printed.out == ""
            return line
        return printed.out

    return run


def rows_of(table, separator=","):
    with table.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


def test_a_sample_is_a_table_of_so_many_images_of_each_class_and_domain_with_their_hashes(tree, sample):
    printed = sample(tree, "--per-class", 2, "--seed", 3, "--out", tree / "asked.csv")
    assert "12 images in" in printed and printed.endswith(f"data check {tree}/asked.csv\n")
    rows = rows_of(tree / "asked.csv")
    assert set(Counter((row["domain"], row["label"]) for row in rows).values()) == {2}
    for row in rows:
        assert row["image_sha256"] == hashlib.sha256((tree / row["image"]).read_bytes()).hexdigest()
    folder, table = read_images(tree), read_images(tree / "asked.csv")
    assert table.samples == balanced(folder.samples, 2, 3)
    assert balanced(table.samples, 1, 3) == balanced(folder.samples, 1, 3)


def test_the_choice_is_the_seeds_and_grows_with_the_number(tree, sample):
    def chosen(number, seed):
        table = tree / f"{number}-{seed}.csv"
        sample(tree, "--per-class", number, "--seed", seed, "--out", table)
        return {row["image"] for row in rows_of(table)}

    assert chosen(2, 0) < chosen(4, 0) and chosen(2, 0) != chosen(2, 1)
    assert len(chosen(9, 0)) == 36  # six are all there are


def test_without_a_number_all_images_are_listed(tree, sample):
    sample(tree, "--out", tree / "all.csv")
    assert read_images(tree / "all.csv").samples == read_images(tree).samples


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_file_that_changed_since_is_one_error_that_names_it(tree, sample, capsys, ending):
    table = tree.parent / f"asked{ending}"
    sample(tree, "--per-class", 1, "--out", table)
    changed = read_images(table).samples[3]
    changed.path.write_bytes((tree / "art/cat/0.png").read_bytes() + b"\0")
    with pytest.raises(ThroughlineError, match="its SHA-256 is another") as caught:
        read_images(table)
    assert str(changed.path) in str(caught.value) and "data sample" in str(caught.value)
    assert main(["data", "check", str(table), "--json"]) == 1
    defects = json.loads(capsys.readouterr().out)["defects"]
    assert [(d["severity"], d["where"]) for d in defects if d["kind"] == "changed_image"] == [("error", [changed.id])]
    changed.path.unlink()
    with pytest.raises(ThroughlineError, match="cannot read the image"):
        read_images(table)


def test_groups_display_names_and_parents_stay_with_the_images(tree, sample):
    rows = ["image,domain,label,group,class_name,parent_id"]
    rows += [
        f"{d}/{c}/{n}.png,{d},{c},g{n % 2},{c}fish|{c}let,p{n}"
        for d in ("art", "photo")
        for c in ("cat", "dog")
        for n in (0, 1)
    ]
    (tree / "named.csv").write_text("\n".join(rows))
    for ending in (".csv", ".tsv"):
        sample(tree / "named.csv", "--out", tree / f"asked{ending}")
        asked, named = read_images(tree / f"asked{ending}"), read_images(tree / "named.csv")
        assert (asked.samples, asked.names) == (named.samples, named.names)


# the form of VLMEvalKit ----------------------------------------------------------------------------------------------


def test_questions_for_vlmevalkit_read_back_as_the_same_images(tree, sample):
    (tree / "art/dog").rename(tree / "art/hot_dog")
    sample(tree, "--per-class", 2, "--seed", 1, "--out", tree / "asked.csv")
    sample(tree, "--per-class", 2, "--seed", 1, "--out", tree / "asked.tsv")
    table, questions = read_images(tree / "asked.csv"), read_images(tree / "asked.tsv")
    assert questions.samples == table.samples and questions.classes == table.classes == ("cat", "dog", "hot_dog")
    assert questions.fingerprint() == table.fingerprint()


def test_questions_are_what_vlmevalkit_asks_from(tree, sample):
    (tree / "art/dog").rename(tree / "art/hot_dog")
    sample(tree, "--out", tree / "asked.tsv")
    lines = pd.read_csv(tree / "asked.tsv", sep="\t")  # as VLMEvalKit loads it
    assert [*lines.columns][:10] == [
        *("index", "image_path", "question", "A", "B", "C"),
        *("answer", "category", "l2-category", "split"),
    ]
    assert [*lines["index"]] == [*range(36)]
    assert set(lines["question"]) == {"What type of object is in this photo?"}
    options = {"A": "cat", "B": "dog", "C": "hot dog"}
    for line in lines.to_dict("records"):
        assert {letter: line[letter] for letter in string.ascii_uppercase if letter in line} == options
        assert line["image_path"] == f"{line['l2-category']}/{line['category']}/{line['image_path'][-5:]}"
        assert options[line["answer"]] == line["category"].replace("_", " ")


def test_more_classes_than_letters_are_an_error_of_this_form_alone(tree, paint, sample):
    for number in range(27):
        paint(tree / f"art/c{number}/0.png")
    assert "26 options, A to Z, and there are 29 classes" in sample(tree, "--out", tree / "asked.tsv")
    assert not (tree / "asked.tsv").exists()
    sample(tree, "--out", tree / "asked.csv")
    assert len(read_images(tree / "asked.csv").classes) == 29


def test_a_table_of_other_questions_is_refused(tree, sample):
    sample(tree, "--per-class", 1, "--out", tree / "asked.tsv")
    text = (tree / "asked.tsv").read_text()
    for changed, said in (
        (text.replace("\tA\tcat\t", "\tB\tcat\t"), "row 1 is answered by 'dog', and its category is 'cat'"),
        (text.replace("l2-category", "l3"), "no column named l2-category"),
    ):
        (tree / "other.tsv").write_text(changed)
        with pytest.raises(ThroughlineError, match=said):
            read_images(tree / "other.tsv")


def test_a_table_separated_by_tabs_may_have_the_projects_columns(tree):
    (tree / "own.tsv").write_text("image\tdomain\tlabel\nart/cat/0.png\tart\tcat\n")
    assert [s.id for s in read_images(tree / "own.tsv").samples] == ["art/cat/0.png"]


# faults --------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_one_line(tree, sample, tmp_path):
    sample(tree, "--out", tree / "asked.csv")
    assert "there already" in sample(tree, "--out", tree / "asked.csv")
    assert "do not lie below the table's folder" in sample(tree, "--out", tree / "art" / "asked.csv")
    assert main(["data", "sample", str(tree), "--out", str(tmp_path / "asked.json")]) == 2
