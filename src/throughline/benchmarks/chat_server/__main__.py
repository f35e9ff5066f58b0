"""`python -m throughline.benchmarks.chat_server [SETTINGS.json]`: the server as a process."""

import sys

from throughline.benchmarks.chat_server.process import main

sys.exit(main())
