"""A small HTTP server that speaks enough of OpenAI's chat-completions API to measure and to test the endpoint teacher:
a capacity, a latency, a plan of faults, five-stage answers, counters, and a log in which leaked labels can be sought.

`throughline bench teacher` and the tests start it, as a process (`python -m throughline.benchmarks.chat_server`) or in
their own event loop. It shares a machine with the client it measures, so it is a bare asyncio protocol: no task and no
stream for a request, image data is skipped unless something needs it, and an answer is ready before its latency ends.
"""

from throughline.benchmarks.chat_server.answers import REFUSAL
from throughline.benchmarks.chat_server.process import RunningServer, main, running_server
from throughline.benchmarks.chat_server.server import ChatServer
from throughline.benchmarks.chat_server.settings import (
    CONTENT_FAULTS,
    OUTCOMES,
    TRANSPORT_FAULTS,
    Answers,
    FaultPlan,
    ServerSettings,
)

__all__ = [
    "CONTENT_FAULTS",
    "OUTCOMES",
    "REFUSAL",
    "TRANSPORT_FAULTS",
    "Answers",
    "ChatServer",
    "FaultPlan",
    "RunningServer",
    "ServerSettings",
    "main",
    "running_server",
]
