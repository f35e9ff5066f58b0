"""The in-process sampler draws what `sample` draws, from generators named by seed, purpose and sample."""

from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import ImageSet
from throughline.mllm.chat import user_turn
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import sample
from throughline.questions.prompt import ImageThenText
from throughline.questions.sampler import InProcessSampler, SamplingRequest


def test_every_purpose_is_one_more_draw_of_its_own(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    settings = SamplingSettings(temperature=1.0, max_new_tokens=5)
    asked = SamplingRequest(ImageThenText("What is shown?"), settings, 3, ("first", "second"))
    samples = tiny_images.samples[:3]
    pieces = list(InProcessSampler(tiny_mllm).draw(asked, [samples[:2], samples[2:]]))
    assert [[(one.sample.id, one.candidate) for one in piece] for piece in pieces] == [
        [(one.id, number) for one in batch for number in (0, 1)] for batch in (samples[:2], samples[2:])
    ]
    reader = ImageReader(tiny_mllm.chat)
    for one, drawn in zip(samples, [*zip(pieces[0][::2], pieces[0][1::2], strict=True), pieces[1]], strict=True):
        prompt = tiny_mllm.chat.prompt(user_turn("What is shown?"), [reader.encode(one)])
        draws = [[generator(3, purpose, one.id) for purpose in ("first", "second")]]
        (said,) = sample(tiny_mllm, [prompt], settings, draws)
        assert [(d.reply.text, d.reply.finish_reason) for d in drawn] == [(s.text, s.finish_reason) for s in said]
        assert [d.reply.usage.completion_tokens for d in drawn if d.reply.usage] == [len(s.tokens) for s in said]
        assert {d.reply.usage.prompt_tokens for d in drawn if d.reply.usage} == {len(prompt.tokens)}
