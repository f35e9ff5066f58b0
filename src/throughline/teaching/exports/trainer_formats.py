"""Accepted chains as the JSONL files that other people's trainers read: TRL, ms-swift and LLaMA-Factory, so that nobody
is locked in. `export` writes them into its folder's `jsonl/`.

Images stand beside the files as `images/<sha256>.<extension>`, each content once, and rows name them relative to the
folder of the JSONL, so that the folder can be moved, packed and uploaded as it is. Where the file system allows they
are hard links: no further byte, and whoever changes the original *in place* changes them too. Absolute paths would
break with the first move, and would write a machine's folders into a dataset.

Row formats, as the tools read them:

- TRL 1.16, `trl/trainer/sft_trainer.py` and `data_utils.py`: conversational `prompt` and `completion` with strings as
  contents, `images` beside them. The image goes before the question, and the loss is on the completion only.
- ms-swift 4, `docs/source_en/Customization/Custom-dataset.md`: `messages` with `<image>` where the image belongs, and
  `images`. Relative paths count from the working folder, then from the environment's `ROOT_IMAGE_DIR`
  (`swift/template/vision_utils.py`).
- LLaMA-Factory, `data/README.md`: the same messages as `sharegpt` with OpenAI's names, told by a `dataset_info.json`.
  Relative paths count from `media_dir`, which is `dataset_dir` unless given (`src/llamafactory/data/converter.py`).
"""

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from throughline.core.files import write_json
from throughline.domains.samples import Sample
from throughline.questions.question_set import QuestionSet
from throughline.questions.wording import class_name

JSONL, IMAGES = "jsonl", "images"
"""The folder of the files, and that of the images in it."""
DATASET_INFO = "dataset_info.json"
LLAMA_FACTORY_NAME = "throughline_chains"
"""What LLaMA-Factory's option `dataset` has to be."""

_MARKS = re.compile(
    r"<(?:image|video|audio|IMG_CONTEXT|image_soft_token|start_of_turn|end_of_turn)>|</s>|\[IMG\]|<\|[^<>|\s]{1,40}\|>"
)
"""Placeholders of media and control tokens of chats, as the trainers and the open model families spell them."""


def control_mark(text: str) -> str | None:
    """The first word of a text that a trainer or a chat template takes for more than text, if there is one.

    A chain that says `<image>` ends a LLaMA-Factory run ("the number of images does not match"), and one that says
    `<|im_end|>` ends its own turn; a teacher's text is untrusted. The known ones: a tokenizer may have others.
    """
    mark = _MARKS.search(text)
    return None if mark is None else mark.group()


TRAINERS = ("trl.jsonl", "ms_swift.jsonl", "llama_factory.jsonl")
"""The files: for TRL's `SFTTrainer`, for ms-swift and for LLaMA-Factory."""


def _row(file: str, question: str, answer: str) -> dict[str, Any]:
    """What one of the files holds of a question and its answer."""
    answered = {"role": "assistant", "content": answer}
    if file == "trl.jsonl":
        return {"prompt": [{"role": "user", "content": question}], "completion": [answered]}
    return {"messages": [{"role": "user", "content": f"<image>{question}"}, answered]}


_LLAMA_FACTORY = {
    LLAMA_FACTORY_NAME: {
        "file_name": "llama_factory.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
}


def write_trainer_files(
    folder: Path, chains: Iterable[tuple[Sample, str]], questions: QuestionSet, with_labels: bool
) -> tuple[int, set[str]]:
    """Writes the files of all trainers into `folder`; `chains` are accepted chains with their samples, those of one
    sample one after the other. Gives how many rows each file has, and the ids of samples with a chain that is in none
    of them, as it holds a `control_mark`.

    Rows also carry `sample_id`, `domain` (to hold one out) and `asks_for` ("reasoning" or "label"), which the
    trainers ignore. `with_labels` gives each image one row of the label question as well. OSError when the place
    cannot be written.
    """
    (folder / IMAGES).mkdir(parents=True)
    write_json(folder / DATASET_INFO, _LLAMA_FACTORY)
    count, marked, last_id = 0, set[str](), ""
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / name).open("w", encoding="ascii", newline="\n")) for name in TRAINERS
        }
        for sample, chain in chains:
            asked = []
            if with_labels and sample.id != last_id:
                asked.append(("label", questions.label, class_name(sample.label, questions.names)))
            if control_mark(chain) is None:
                asked.append(("reasoning", questions.reasoning, chain))
            else:
                marked.add(sample.id)
            last_id = sample.id
            image = f"{IMAGES}/{sample.image_sha256}{sample.path.suffix.lower()}"
            if asked and not (folder / image).exists():
                _place(folder / image, sample.path)
            for asks_for, question, answer in asked:
                about = {"images": [image], "sample_id": sample.id, "domain": sample.domain, "asks_for": asks_for}
                for name, file in files.items():
                    # ASCII: a raw U+2028 or U+0085 in a chain is a line's end to some readers
                    file.write(json.dumps(_row(name, question, answer) | about) + "\n")
            count += len(asked)
    return count, marked


def _place(target: Path, source: Path) -> None:
    """The image at `target`: a hard link to its file, or a copy where there can be none (another disk, no right)."""
    try:
        os.link(source.resolve(), target)  # resolved: a link to a symbolic link would move away from its target
    except OSError:
        shutil.copyfile(source, target)
