"""`transformers serve` as the tests start it: on the CPU, in full width. The slow tests of endpoints share it."""

import sys
from pathlib import Path

TRANSFORMERS = Path(sys.executable).with_name("transformers")
SERVE = f"{TRANSFORMERS} serve --host 127.0.0.1 --port {{port}} --device cpu --dtype float32 {{checkpoint}}"
SECONDS_TO_START = 120.0
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
