"""The share of a training run that waits for data: `fit` itself, on the built-in signs with the default augmentation.

Batches are prepared ahead by a thread of their own (data/batches.py); what an epoch waited for them stands in its row
of history.jsonl as wait_seconds. On a machine with few cores, preparation also takes time from the steps beside it;
that part shows in a step's time, not in the wait.
"""

import sys

from minires.benchmarks import harness, watch

CASES = {"resnet50": 64, "resnet20": 32}  # architecture -> side of the images


def build(_name, _task, options):
    """A turn (arch, side) trains for an epoch; its row of the history. See harness."""
    from minires import resnet
    from minires.data import make_signs
    from minires.data.dataset import Resized
    from minires.train import Classifier, Recipe, fit

    def turn(arch, side):
        train, _ = make_signs(n_train=options["images"], n_test=6)
        train = Resized(train, (side, side))
        classifier = Classifier.for_data(resnet(arch, train.shape, len(train.classes)), train)
        return fit(classifier, train, None, Recipe(epochs=2)).history[-1]  # the second epoch: everything is warm

    return turn


def run(options) -> list:
    """Measure and print; the records. options: those of `minires bench waiting`."""
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    return measure(facts, options)


def measure(facts, options) -> list:
    """The same without the machine's facts above it."""
    rows, records = [], []
    with harness.started(build, ("fit",), "", options, options["threads"]) as (worker,):
        for arch, side in CASES.items():
            with watch.contention() as load:
                turn = worker.turn(arch, side)
                load.own = turn.cpu_seconds
            row = turn.value
            share = row["wait_seconds"] / row["seconds"]
            rows.append((arch, f"{side}x{side}", f"{row['seconds']:.2f}", f"{row['wait_seconds']:.3f}", f"{share:.1%}"))
            case = {"arch": arch, "size": side, "share": share, **row, **load.as_dict()}
            records += harness.record("waiting", facts, options, [case])
    title = f"fit on {options['images']} built-in signs, augmented, batches of 32, the second epoch"
    harness.print_table(title, ["network", "images", "epoch s", "waited s", "share"], rows)
    return records


if __name__ == "__main__":
    from minires.cli import main

    sys.exit(main(["bench", "waiting", *sys.argv[1:]]))
