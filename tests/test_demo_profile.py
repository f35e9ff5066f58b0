"""Each look of the profiler is put to one part of the demo."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from demo_profile import PARTS, RATE, seconds_by_part

STACKS = """\
main (a.py:1);train_stage (trainer.py:9);compute_loss (trainer.py:70);score_trees (forward.py:5) 100
main (a.py:1);train_stage (trainer.py:9);backward (accelerate.py:1);_engine_run_backward (torch/autograd/graph.py:1) 200
main (a.py:1);train_stage (trainer.py:9);compute_loss (trainer.py:70);collate_packed (collating.py:9) 10
main (a.py:1);train_stage (trainer.py:9);step (adam.py:1) 5
main (a.py:1);self_label (rounds.py:1);sample (sampling.py:3) 50
main (a.py:1);answer_samples (answering.py:1);sample (sampling.py:3) 25
<module> (torch/__init__.py:1);_find_and_load (importlib) 15
"""


def test_every_look_counts_once_and_the_first_part_that_fits_gets_it():
    found = seconds_by_part(STACKS)
    assert sum(found.values()) == (100 + 200 + 10 + 5 + 50 + 25 + 15) / RATE
    assert found["training: forward pass"] == 100 / RATE
    assert found["training: backward pass"] == 200 / RATE
    assert found["training: laying trees out"] == 10 / RATE
    assert found["training: optimiser, checkpoints, the rest"] == 5 / RATE
    assert found["self-labelling"] == 50 / RATE and found["answering"] == 25 / RATE
    assert found["starting: imports, loading the checkpoint"] == 15 / RATE
    assert set(found) < set(PARTS)
