"""A small HTTP server that speaks enough of OpenAI's chat-completions API to test and to measure the endpoint teacher:
a capacity, a latency, a plan of faults, five-stage replies, counters, and a log in which leaked labels can be sought.

Tests start it in their own event loop (`ChatServer`) or as a process (`running_server`), as `bench/teacher.py` does.
"""

from tests.chat_server.process import RunningServer, running_server
from tests.chat_server.replies import REFUSAL
from tests.chat_server.server import ChatServer
from tests.chat_server.settings import CONTENT_FAULTS, OUTCOMES, TRANSPORT_FAULTS, FaultPlan, ServerSettings

__all__ = [
    "CONTENT_FAULTS",
    "OUTCOMES",
    "REFUSAL",
    "TRANSPORT_FAULTS",
    "ChatServer",
    "FaultPlan",
    "RunningServer",
    "ServerSettings",
    "running_server",
]
