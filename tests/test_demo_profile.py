"""Each look of the profiler is put to one part of the demo."""

from demo_profile import PARTS, RATE, seconds_by_part

STACKS = """\
main (a.py:1);train_stage (trainer.py:9);compute_loss (trainer.py:70);score_trees (forward.py:5) 100
main (a.py:1);train_stage (trainer.py:9);backward (accelerate.py:1);_engine_run_backward (torch/autograd/graph.py:1) 200
main (a.py:1);train_stage (trainer.py:9);compute_loss (trainer.py:70);collate_packed (collating.py:9) 10
main (a.py:1);train_stage (trainer.py:9);step (adam.py:1) 5
main (a.py:1);self_label (rounds.py:1);sample (sampling.py:3) 50
main (a.py:1);answer_samples (answering.py:1);sample (sampling.py:3) 25
main (a.py:1);train_stage (trainer.py:9);tree (trainer.py:50);tree (objectives.py:30) 8
answer_samples (answering.py:1);ImageReader.encode (throughline/mllm/images.py:41);open (PIL/Image.py:1) 3
Thread._bootstrap (threading.py:1);_worker (futures/thread.py:83);ImageReader._read (throughline/mllm/images.py:73);\
load_image (throughline/domains/images.py:40) 6
Thread._bootstrap (threading.py:1);_worker (futures/thread.py:83);ImageReader._read (throughline/mllm/images.py:70);\
PixelCache.get (throughline/mllm/pixel_cache.py:99) 4
<module> (<string>:1);main (a.py:1);_find_and_load (<frozen importlib._bootstrap>:1);<module> (torch/__init__.py:1) 15
<module> (<string>:1);_find_and_load (<frozen importlib._bootstrap>:1);<module> (throughline/mllm/images.py:1);\
<module> (throughline/mllm/chat.py:1) 2
<module> (<string>:1);main (a.py:1);write_json_lines (files.py:1) 7
"""


def test_every_look_counts_once_and_the_first_part_that_fits_gets_it():
    found = seconds_by_part(STACKS)
    assert sum(found.values()) == (100 + 200 + 10 + 5 + 50 + 25 + 8 + 3 + 6 + 4 + 15 + 2 + 7) / RATE
    assert found["training: forward pass"] == 100 / RATE
    assert found["training: backward pass"] == 200 / RATE
    assert found["training: laying trees out"] == 10 / RATE
    assert found["training: optimiser, checkpoints, the rest"] == 5 / RATE
    assert found["self-labelling"] == 50 / RATE and found["answering"] == 25 / RATE
    assert found["training: building trees"] == 8 / RATE
    assert found["reading images"] == (3 + 6 + 4) / RATE  # by whoever asks, and by the thread in the background
    assert found["starting: imports, loading the checkpoint"] == (15 + 2) / RATE
    assert found["the rest"] == 7 / RATE
    assert set(found) < set(PARTS)
