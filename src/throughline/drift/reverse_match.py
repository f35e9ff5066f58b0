"""Does a model tell the images of a perception pair apart? In arXiv 2604.15705 the model itself filters counterfactual
images ("reverse matching"); its rule is not known, this one is ours."""

from collections.abc import Callable, Sequence

from throughline.chains.pairs import Pair
from throughline.core.settings import ModelSettings
from throughline.domains.samples import ImageSet


def likelier_with_true_image(
    model: str, images: ImageSet, base: ModelSettings, report_progress: Callable[[int, int], None]
) -> Callable[[Sequence[Pair]], list[bool]]:
    """For each pair whether the model finds the chain less likely with the counterfactual image than with the true one,
    behind the reasoning question. Loads the model at once; raises as `open_model` does."""
    from throughline.evaluation.saved_model import open_model
    from throughline.mllm.images import ImageReader
    from throughline.mllm.likelihood import label_log_likelihood
    from throughline.questions.prompt import ImageThenText

    opened = open_model(model, images.classes, base)
    reader, prompt = ImageReader(opened.mllm.chat), ImageThenText(opened.questions.reasoning)

    def matches(pairs: Sequence[Pair]) -> list[bool]:
        kept = []
        for done, pair in enumerate(pairs):
            report_progress(done, len(pairs))
            prompts = [prompt(side.sample).encode(reader) for side in (pair.chosen, pair.rejected)]
            true, counterfactual = label_log_likelihood(opened.mllm, prompts, [pair.chosen.chain or ""])[:, 0]
            kept.append(bool(counterfactual < true))
        return kept

    return matches
