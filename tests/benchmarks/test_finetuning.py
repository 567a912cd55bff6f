"""Fine-tuning beats training from scratch at equal steps on held-out hands; with MINIRES_ALL over five seeds."""

import numpy as np
import pytest
from demand import on_demand
from minires.benchmarks import finetuning


@on_demand
def test_fine_tuning_beats_scratch_over_five_seeds():
    ways = "scratch", "stem, stage2 frozen"
    rows = [finetuning.measure(seed, ways) for seed in range(5)]
    scratch, tuned = (np.array([row[way] for row in rows]) for way in ways)
    assert np.mean(tuned - scratch) >= finetuning.BOUND
    assert (tuned > scratch).all()


@pytest.mark.slow
def test_the_two_tasks_share_no_class_and_no_image():
    base, few, held = finetuning.tasks(0)
    assert (base.classes, few.classes, held.classes) == (finetuning.BEFORE, finetuning.AFTER, finetuning.AFTER)
    assert not set(base.classes) & set(few.classes)
    assert [len(d) for d in (base, few, held)] == [540, 30, 180]
    assert np.bincount(few.labels).tolist() == [10, 10, 10]
    seen = {image.tobytes() for image in few.images(np.arange(len(few)))}
    assert not seen & {image.tobytes() for image in held.images(np.arange(len(held)))}
    other = finetuning.tasks(1)[1]
    assert seen != {image.tobytes() for image in other.images(np.arange(len(other)))}
