"""A round's chains from a server: merge the weights of now, prove the merge, serve it, ask, and leave nothing behind.

`learning` takes it in place of the in-process sampler where `training.sampler.serve` names a command. Nothing is merged
or started before a chain is missing, so that a round that was killed in training goes on without a server.
"""

import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from throughline.core.files import readable_os_errors
from throughline.core.settings import SamplerSettings
from throughline.domains.samples import Sample
from throughline.domains.views import load_sample
from throughline.mllm.load import Mllm
from throughline.mllm.merge_check import PROBED, check_merged, make_probe
from throughline.mllm.merging import write_merged
from throughline.questions.question_set import QuestionSet
from throughline.questions.sampler import Drawn, SamplingRequest
from throughline.teaching.served import EndpointSampler
from throughline.teaching.server_process import ServeCommand, running_server

CHECKPOINT, LOG = ".served", "server.log"
"""In the round's folder while the server runs; the log stays when something went wrong."""
NAME = "throughline"
"""What the server is told to call the model, where it can be told."""


@dataclass(frozen=True)
class ServedSampler:
    """Draws from the model as it is when `draw` is called. The weights are served in the type they have in memory."""

    whole_batches: ClassVar[bool] = False

    mllm: Mllm
    settings: SamplerSettings
    questions: QuestionSet
    samples: Sequence[Sample]
    """The merge is proved on the images of the first of them."""
    folder: Path
    report_progress: Callable[[str], None]

    @property
    def params(self) -> Mapping[str, Any]:
        """The command, as the unit's hash has it."""
        return self.settings.identity

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        """Nothing, and no server, when nothing is asked. ThroughlineError when the merge is not the adapter's equal,
        the server does not start, or as `EndpointSampler.draw` raises."""
        if not any(batches):
            return
        assert self.settings.serve is not None
        command = ServeCommand(self.settings.serve)
        command.require_program()
        checkpoint, log = self.folder.resolve() / CHECKPOINT, self.folder / LOG
        try:
            self._merge(checkpoint)
            self.report_progress("starting the server")
            with running_server(command, checkpoint, NAME, log, self.settings.start_seconds) as server:
                sampler = EndpointSampler(
                    server.url,
                    command.served_name(checkpoint, NAME),
                    self.params,
                    at_once=self.settings.at_once,
                    require_alive=server.require_alive,
                )
                yield from sampler.draw(request, batches)
        finally:
            shutil.rmtree(checkpoint, ignore_errors=True)
        log.unlink(missing_ok=True)

    def _merge(self, folder: Path) -> None:
        self.report_progress("merging the adapter")
        shutil.rmtree(folder, ignore_errors=True)  # a killed attempt's
        with readable_os_errors(folder):
            folder.mkdir(parents=True)
        dtype = str(self.mllm.model.dtype).removeprefix("torch.")
        merged = write_merged(self.mllm, folder, dtype, sampled=True)
        images = [load_sample(sample) for sample in self.samples[:PROBED]]
        questions = self.questions
        probe = make_probe(images, questions.texts, questions.class_names, questions.format)
        check_merged(self.mllm, folder, merged, probe)
