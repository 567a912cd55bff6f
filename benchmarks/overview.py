"""The quick overview, about three minutes on two cores: the machine's limits, training steps and inferences of the
course's ResNet-50 and of the lessons' ResNet-20 against their peers, and how long training waits for data.
"""

from minires.benchmarks import bench_step, floors, isa, waiting, watch

EVERY = ("ours", "torch", "torch_channels_last", "torch_fused_adam", "keras", "textbook")
SOME = ("ours", "torch_channels_last", "torch_fused_adam", "onnxruntime")  # the fastest peers, without a compiler
# (arch, size, batch, task, contenders, seconds for the rounds)
CASES = (
    ("resnet50", 64, 32, "training", EVERY, 20),
    ("resnet20", 32, 32, "training", SOME, 6),
    *(("resnet50", 64, batch, "inference", SOME, 6) for batch in (32, 1)),
    *(("resnet20", 32, batch, "inference", SOME, 6) for batch in (32, 1)),
    ("resnet50", 224, 1, "inference", SOME, 6),
)
SETTINGS = {"steps": 15, "warmup": 2, "optimizer": "adam", "images": 192}


def run(options) -> list:
    """Measure and print; the records. options: threads, isa, json."""
    isa.check(options["isa"])
    facts = watch.machine(options["threads"])
    watch.print_machine(facts)
    isa.print_choice(options["isa"], facts["flags"])
    limits = floors.measure(options["threads"], options["isa"])
    print(limits, end="\n\n")
    records = []
    for arch, size, batch, task, peers, seconds in CASES:
        case = {"arch": arch, "size": size, "batch": batch, "tasks": (task,), "peers": peers, "seconds": seconds}
        records += bench_step.compare(facts, options | SETTINGS | case, limits)
    return records + waiting.measure(facts, options | SETTINGS)
