"""For teachers: what each lesson and exercise takes, presumes and proves, and what goes wrong; the guide made of it.

`python -m minires.lessons.teaching > lessons/TEACHING.md` writes it as Markdown; `minires site` as a page.
"""

from dataclasses import dataclass

from minires.lessons import harness, spreads
from minires.lessons.exercises import exercises
from minires.lessons.prose import readable


@dataclass(frozen=True)
class Unit:
    """A lesson or an exercise in a class.

    minutes: of a student's time, the writing and the talk included; an estimate. level: 1 to 3. presumes: numbers of
    lessons, and what else. proves: what a student who is through with it has seen or can do. mistake: the commonest
    one, and what it looks like. lessons: to which an exercise belongs.
    """

    minutes: int
    level: int
    presumes: str
    proves: str
    mistake: str
    lessons: tuple[int, ...] = ()


LEVELS = {1: "first", 2: "middle", 3: "hard"}

LESSONS = {
    1: Unit(
        45,
        1,
        "the chain rule; what a convolution is",
        "the gradient is copied at the add node and summed at the block's input",
        "the sum is taken for a mean: 'half goes each way'. Ask for the numbers under the lowest row.",
    ),
    2: Unit(
        40,
        1,
        "Taylor to second order",
        "which epsilon a gradient check can be trusted at, and why float64",
        "the smallest epsilon is held to be the best; a floor (a wrong gradient) is taken for round-off.",
    ),
    3: Unit(
        60,
        2,
        "lesson 1; variance of a sum",
        "with BN a plain network explodes; only small weights without BN vanish",
        "'skips cure vanishing' is repeated for the networks with BN: the green line goes the other way.",
    ),
    4: Unit(
        45,
        2,
        "lesson 3",
        "activation and weight gradients of one network may slope differently",
        "a plot of weight gradients is read as one of activations, and nothing seems to vanish.",
    ),
    5: Unit(
        50,
        2,
        "lesson 3; the normal distribution",
        "where the factor 1.21 comes from, and that it is gone after five steps",
        "the explosion is called the reason why deep plain networks train badly. See the right panel.",
    ),
    6: Unit(
        60,
        3,
        "lessons 3 and 5; cosine of two vectors",
        "a gradient of healthy size can be noise; with skips neighbours agree",
        "size and direction are mixed up: 'it explodes, so neighbours disagree'.",
    ),
    7: Unit(
        40,
        2,
        "lesson 6",
        "how short a step must be for the gradient to hold",
        "the radius is read as the best learning rate; SGD's first step is far longer, and training works.",
    ),
    8: Unit(
        60,
        1,
        "a network was trained once",
        "degradation is in the training loss, and not for want of a solution",
        "it is called overfitting: the curves are of the training loss.",
    ),
    9: Unit(
        45,
        2,
        "lesson 8",
        "a residual network survives the loss of a block, its plain twin does not",
        "accuracies are compared instead of the share that is kept; the plain network starts lower.",
    ),
    10: Unit(
        60,
        3,
        "lesson 9; the binomial distribution",
        "short paths carry the gradient of a deep residual network",
        "'all paths weigh alike' (the grey count), or: short paths are a law (not at few blocks).",
    ),
    11: Unit(
        50,
        3,
        "lessons 3 and 5",
        "scaling the skip turns a residual network back into a plain one",
        "with s = 0.5 the gradient is said to vanish, since the pure path does: the whole one explodes.",
    ),
    12: Unit(
        50,
        1,
        "training and test accuracy; what BN does",
        "a good network can be at chance for its running statistics alone",
        "overfitting is diagnosed. Evaluated on its training images it is as bad.",
    ),
    13: Unit(
        60,
        1,
        "lesson 12 for the test",
        "all parts of ResNet-50 run together; how its gradient looks and what a step costs",
        "conclusions are drawn from a dozen steps on 60 test images: the interval is wide.",
    ),
    14: Unit(
        70,
        3,
        "matrix products; what a cache is",
        "what each way to convolve multiplies, moves and rounds",
        "fewer multiplications are taken to be faster: at few channels the transforms cost more.",
    ),
    15: Unit(
        50,
        2,
        "lessons 5 and 12",
        "BN's answer and gradient depend on the batch, GN's do not; which learns faster is another question",
        "'GN is better at small batches' is repeated: read the right panel, and what the text says it does not say.",
    ),
    16: Unit(
        50,
        2,
        "lessons 7 and 11; what Adam divides by",
        "Adam's first steps are its longest, and long beside the weights at a large rate; who minds that",
        "the warm-up is held to be good in itself: at a usual rate it spends steps (right panel).",
    ),
    17: Unit(
        50,
        2,
        "lesson 12; matrix products",
        "fine-tuning moves last parts most, all parts little, and the statistics of BN too",
        "small changes of weights are taken for small changes of what they compute: compare left and middle.",
    ),
    18: Unit(
        50,
        3,
        "lessons 15 and 16; variance of a mean",
        "what ranks must tell each other to be one process, what their noise is, and where the linear rule ends",
        "'N machines, N times the rate, and a warm-up': read the pink bars. The steps are fewer, not only longer.",
    ),
}

EXERCISES = {
    1: Unit(
        50,
        2,
        "indexing of arrays",
        "can write a convolution as a matrix product",
        "the order in a row: check 'order', 'which index runs fastest?'; the stride in the count only: 'strides'.",
        (14,),
    ),
    2: Unit(
        60,
        3,
        "exercise 1",
        "can derive dx, dw and db of a convolution",
        "the stride forgotten in dx: all is well at stride 1, check 'stride' fails; '=' for '+=': 'dx'.",
        (1, 14),
    ),
    3: Unit(
        60,
        2,
        "the chain rule",
        "can go back through BN node by node",
        "one of two paths of a value used twice: check 'dcentred'; the mean held constant: 'dx'.",
        (5,),
    ),
    4: Unit(
        40,
        3,
        "exercise 3",
        "can contract nine nodes to one formula",
        "m counts the images, not images times pixels: check 'dx' fails, dgamma and dbeta pass.",
        (5,),
    ),
    5: Unit(
        40,
        1,
        "lesson 1",
        "can compose a block from layers",
        "the last ReLU before the sum: check 'values'; no shortcut in backward: 'dx'.",
        (1,),
    ),
    6: Unit(
        40,
        2,
        "exercise 5",
        "can build the block that changes shape",
        "stride on one path only: check 'layers'; the shortcut's gradient dropped: 'dx'.",
        (1,),
    ),
    7: Unit(
        45,
        2,
        "lesson 1",
        "can find a dead skip that no gradient check sees",
        "only forward is mended: check 'dx', it is still that of the block as it came.",
        (1, 8),
    ),
    8: Unit(
        25,
        1,
        "lesson 1",
        "gradients sum where a value is used twice",
        "one path halved, or the branch alone: check 'dx'; doubled at the end: 'eight blocks'.",
        (1, 3),
    ),
    9: Unit(
        35,
        2,
        "views and copies of NumPy",
        "can find a write through a shared array",
        "the shortcut is copied, not what is written to: check 'in place', the caller's dy is changed.",
        (1, 2),
    ),
    10: Unit(
        35,
        2,
        "exercise 6",
        "shapes that fit prove nothing",
        "the crop is moved to the centre: check 'reach' still finds pixels that nobody sees.",
        (1,),
    ),
    11: Unit(
        45,
        3,
        "exercise 3",
        "can read six gradients against a formula",
        "the term is there but not divided by m, or has the wrong sign: check 'rules'.",
        (2, 5),
    ),
    12: Unit(
        35,
        2,
        "random generators",
        "independent, repeatable weights by name",
        "hash(name): check 'again', another network in the next process; len(name): 'alike'.",
        (3,),
    ),
    13: Unit(
        35,
        1,
        "training and use",
        "preprocessing belongs to the network",
        "scaled by the batch, or left in training mode: check 'each image alone'.",
        (12,),
    ),
}

WEEKS = (
    ("A block, forward and back", (1, 2), (5, 8)),
    ("How gradients travel", (3, 4), (3, 12)),
    ("Batch normalisation's part", (5, 12), (11, 13)),
    ("Direction, not size", (6, 7), (7, 9)),
    ("What depth costs, what a block is worth", (8, 9), (6, 10)),
    ("Paths, and the highway", (10, 11), (4,)),
    ("The whole network, and how fast", (13, 14), (1, 2)),
    ("Without batches, the first steps, the next task, many machines", (15, 16, 17, 18), ()),
)

USE = """
Seven weeks of two lessons and one to two exercises each, and one of four lessons for those who want more. In class:
show the question and the picture's axes, let everybody write down a prediction, run the lesson, compare. At home: the
lesson's own exercise and those of the week. Minutes are a student's time, estimated, the talk included; the seconds
of a lesson are measured (`minires lesson all --keep` on two AVX2 cores of an AMD EPYC). A lesson's numbers differ in
the last digits from machine to machine, its claims hold everywhere.

For paper: `minires lesson 3 --handout lesson_03.pdf` makes one page with the question, the picture, the measured table
and room to write. For notebooks: `python -m minires.lessons.notebooks 3 lesson_03.ipynb --run`. As a site: `minires
site pages/`, which needs no network once it is there.
"""
KEY = """
`minires lesson 3 --answers` answers what a lesson asks under "Exercise"; on its page the answer is folded, in the
notebook it is left out. The numbers in it were measured, seed by seed, and are asserted like the claims.

Solutions of the exercises stand in the checkout, `lessons/exercises/solutions/`, and are not installed with the
package. Hints come one at a time (`--hint`); the marks of a class say how many were given.
"""
GRADING = """
The bug hunts, exercises 7 to 13, have other faults to hand out: `minires exercise 8 --seed 12` writes one of 42, and
`minires exercise 8 --class names.txt` writes a folder with one for each name in a list, one a line, and each has
another. Where the fault lies, what kind it is and its constants differ; what is right does not, so the same checks
judge them all. The file says its variant, and so do the marks: two of one number are worth a look.

Collect a folder per student, `homework/anna/exercise_07_plain_in_disguise.py`, and run

- `minires exercise --grade homework/ --csv marks.csv`: a row for each file with the checks that passed, the first fault
  and its hint, the number of hints given and the time
- `minires exercise --grade . --gradescope results.json`: the file that Gradescope's autograder reads, a point a check
- `minires exercise 7 --check FILE --json`: one verdict, for a script of yours

For nbgrader, `minires exercise 7 --notebook source/week4/exercise_07.ipynb` writes the exercise (with --seed a variant)
into a course's source folder: the student's cell, and locked cells with a point for each of the same checks. `nbgrader
generate_assignment week4` and `nbgrader autograde week4` do the rest; where students' notebooks are run, minires has
to be installed.

Each file runs in a process of its own with limits on time, memory and print. That keeps accidents away, not attacks: do
not grade strangers' files on a machine that matters. A library's own op as the answer is refused.
"""
RUBRIC = (
    ("points", "lesson: prediction and report", "exercise"),
    ("4", "predicted with a reason; measured, and says where and why the prediction failed", "all checks, no hint"),
    ("3", "predicted and measured; the reason is the lesson's own sentence", "all checks, some hints"),
    ("2", "measured without a prediction, or two kinds of gradient are mixed up", "more than half of the checks"),
    ("1", "a command was run and its table copied", "the file runs, some check passes"),
    ("0", "nothing", "nothing, or the library's own op"),
)


def sections() -> list[tuple[str, str | list[tuple]]]:
    """(heading, text or table) of the guide; a table's first row is its head."""
    weeks = [("week", "about", "lessons", "exercises", "minutes")]
    for number, (about, lessons, tasks) in enumerate(WEEKS, 1):
        minutes = sum(LESSONS[n].minutes for n in lessons) + sum(EXERCISES[n].minutes for n in tasks)
        weeks.append((str(number), about, _list("lesson", lessons), _list("exercise", tasks), str(minutes)))
    head = ("minutes", "level", "presumes", "proves", "the commonest mistake, and what it looks like")
    units = [("lesson", "runs", *head)]
    for n, unit in LESSONS.items():
        units.append((f"lesson {n}: {harness.load(n).LESSON.title}", spreads.takes(n), *_row(unit)))
    tasks = [("exercise", "belongs to", *head)]
    for task in exercises():
        unit = EXERCISES[task.number]
        tasks.append((f"exercise {task.number}: {task.title}", _list("lesson", unit.lessons), *_row(unit)))
    return [
        ("How to use it", USE),
        ("Eight weeks", weeks),
        ("The lessons", units),
        ("The exercises", tasks),
        ("The key", KEY),
        ("Grading", GRADING),
        ("Rubric", list(RUBRIC)),
    ]


def _list(kind: str, numbers: tuple[int, ...]) -> str:
    return ", ".join(f"{kind} {n}" for n in numbers)


def _row(unit: Unit) -> tuple[str, ...]:
    return str(unit.minutes), LEVELS[unit.level], unit.presumes, unit.proves, unit.mistake


def of_lesson(number: int) -> list:
    """The exercises that belong to a lesson."""
    return [task for task in exercises() if number in EXERCISES[task.number].lessons]


def markdown() -> str:
    """The guide as a Markdown file."""
    parts = ["# For teachers", "Made by `python -m minires.lessons.teaching`; `minires site` has it as a page."]
    for heading, body in sections():
        parts += [f"## {heading}", body.strip() if isinstance(body, str) else _table(body)]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[tuple]) -> str:
    head, *body = ([readable(cell).replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


if __name__ == "__main__":
    print(markdown(), end="")
