"""Does this base conclude from its chain? Measured with transformers alone: a chain is put into the model's mouth, and
a plain forward pass over the whole conversation says how likely each class is as its conclusion.

    python bench/forced_chains.py                       # the pocket, against evidence/certificate.json
    python bench/forced_chains.py --checkpoint DIR

Images, teacher's chains and pairs are those of `certificate_reasoning.py`; rendering, generation and scoring are not.
Exit code 1 where a number differs from the certificate's by more than a hundredth.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from certificate import ROOT, Budget, parts, world
from certificate_reasoning import another
from terse import SURE
from throughline.drawn.concepts import CLASSES
from throughline.drawn.describer import describe
from throughline.drawn.scenes import read_scenes
from throughline.mllm.checkpoints import POCKET, checkpoint_folder
from throughline.questions.question_set import make_question_set

QUESTIONS = make_question_set(CLASSES)
END = "<CONCLUSION>"


class Plain:
    """The checkpoint as transformers loads it."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def inputs(self, image: Image.Image, question: str, answer: str = "") -> dict[str, torch.Tensor]:
        """One conversation with the beginning of an answer."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return dict(self.processor(images=[image], text=[prompt + answer], return_tensors="pt"))

    @torch.no_grad()
    def probabilities(self, image: Image.Image, question: str, before: str, behind: str) -> torch.Tensor:
        """`(classes,)`: each class between the two texts, among all classes; `behind` counts, as it closes the name."""
        start = self.inputs(image, question, before.rstrip(" "))["input_ids"].shape[1]
        sums = []
        for name in CLASSES:
            inputs = self.inputs(image, question, f"{before}{name}{behind}<|im_end|>")
            logits = torch.log_softmax(self.model(**inputs).logits[0].double(), dim=-1)
            ids = inputs["input_ids"][0]
            sums.append(logits[start - 1 : -1].gather(1, ids[start:, None]).sum())
        return torch.softmax(torch.stack(sums), dim=0)

    def behind_chain(self, image: Image.Image, chain: str) -> torch.Tensor:
        """`(classes,)` as the conclusion of this chain, whose own conclusion is left out."""
        head, _, tail = chain.rpartition(END)
        name = next(name for name in CLASSES if name in tail)
        before, _, behind = tail.partition(name)
        return self.probabilities(image, QUESTIONS.reasoning, head + END + before, behind)

    @torch.no_grad()
    def written(self, image: Image.Image) -> str:
        """The chain that the model writes by itself, greedily."""
        inputs = self.inputs(image, QUESTIONS.reasoning)
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=160)
        return str(self.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def measure(plain: Plain, budget: Budget, seed: int = 0) -> dict[str, float]:
    """The first conditions of the certificate on the reasoning of its base."""
    _, _, test = parts(budget)
    scenes = read_scenes(world(budget))
    last = budget.images_held_out + budget.reasoning_images
    samples = [own for rows in test.values() for own in rows if int(own.path.stem) < last]
    images = {own.id: Image.open(own.path).convert("RGB") for own in samples}

    def told(own: Any) -> str:
        return describe(scenes[own.id], seed=seed, sample_id=own.id, settings=SURE)

    sums = dict.fromkeys(("without", "behind_true", "followed", "otherwise"), 0.0)
    chains = {own.id: plain.written(images[own.id]).strip() for own in samples}
    whole = [own for own in samples if any(name in chains[own.id].rpartition(END)[2] for name in CLASSES)]
    for own in samples:
        image, place = images[own.id], CLASSES.index(own.label)
        other = another(samples, own, seed, "another scene")
        sums["without"] += float(plain.probabilities(image, QUESTIONS.label, "", "")[place])
        sums["behind_true"] += float(plain.behind_chain(image, told(own))[place])
        sums["followed"] += int(plain.behind_chain(image, told(other)).argmax()) == CLASSES.index(other.label)
    for own in whole:
        other = another(whole, own, seed, "another image")
        behind = [plain.behind_chain(images[own.id], chains[shown.id]).argmax() for shown in (own, other)]
        sums["otherwise"] += int(behind[0] != behind[1])
    counts = dict.fromkeys(sums, len(samples)) | {"otherwise": len(whole)}
    return {name: value / counts[name] for name, value in sums.items()}


def main() -> None:
    """Prints both, and says where they differ."""
    parser = argparse.ArgumentParser(description="does the base conclude from its chain?")
    parser.add_argument("--checkpoint", default=POCKET, help="the base (default: pocket)")
    arguments = parser.parse_args()
    folder = checkpoint_folder(arguments.checkpoint)
    if folder is None:
        raise SystemExit(f"no folder {arguments.checkpoint}")
    found = measure(Plain(folder), Budget())
    print(json.dumps(found, indent=1))
    if arguments.checkpoint != POCKET:
        return
    certified = json.loads((ROOT / "evidence" / "certificate.json").read_text())["reasoning"]
    theirs = certified["chains"] | certified["own_chains"]
    different = [name for name, value in found.items() if abs(theirs[name] - value) > 0.01]
    if different:
        raise SystemExit(f"differs from the certificate: {', '.join(different)}")
    print("equal to the certificate")


if __name__ == "__main__":
    main()
