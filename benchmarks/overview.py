"""The quick overview, about two minutes on two cores: the machine's limits, a training step and an inference of the
course's ResNet-50 against all that is installed, ResNet-20 at the lessons' size, and how long training waits for data.
"""

from minires.benchmarks import bench_step, floors, waiting, watch

# (arch, size, tasks, contenders, seconds for the rounds of a task)
CASES = (
    (
        "resnet50",
        64,
        ("training",),
        ("ours", "torch", "torch_channels_last", "torch_fused_adam", "keras", "textbook"),
        20,
    ),
    ("resnet50", 64, ("inference",), ("ours", "torch", "torch_channels_last", "textbook"), 6),
    ("resnet20", 32, ("training",), ("ours", "torch", "torch_channels_last", "textbook"), 6),
)
SETTINGS = {"batch": 32, "steps": 15, "warmup": 2, "optimizer": "adam", "images": 192}


def run(options) -> list:
    """Measure and print; the records. options: threads, json."""
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    limits = floors.measure(options["threads"])
    print(limits, end="\n\n")
    records = []
    for arch, size, tasks, peers, seconds in CASES:
        case = {"arch": arch, "size": size, "tasks": tasks, "peers": peers, "seconds": seconds}
        records += bench_step.compare(facts, options | SETTINGS | case, limits)
    return records + waiting.measure(facts, options | SETTINGS)
