"""A few of the campaign's hostile layers: no instrument falls over, and each speaks in one line of ours."""

import pytest
from hostile_habits import HABITS
from hostile_layers import Case, cases, judge

FEW = cases(30, seed=11)
INSTRUMENTS = ("gradcheck", "gradcheck of a network", "audit", "bn-doctor", "overfit")


@pytest.mark.parametrize("case", FEW, ids=lambda case: " + ".join(case.habits))
def test_no_instrument_falls_over(case):
    runs = case.instruments()
    assert tuple(runs) == INSTRUMENTS
    for name, run in runs.items():
        outcome = judge(run)
        assert outcome.kind in ("fault", "error of ours", "none seen"), f"{name}: {outcome.said}\n{outcome.trace}"


def test_the_campaign_sees_what_falls_over():
    def raw():
        raise ValueError("broadcast")

    assert judge(raw).kind == "RAW"
    assert {Case((name,), "middle").habits[0] for name in HABITS} == set(HABITS)
    assert len(HABITS) > 250


def test_a_sound_layer_is_left_in_peace():
    for run in Case(("is: sound",), "middle").instruments().values():
        assert judge(run).kind in ("none seen", "fault")
    assert judge(Case(("is: sound",), "middle").instruments()["gradcheck of a network"]).kind == "none seen"
    assert judge(Case(("is: sound",), "middle").instruments()["audit"]).kind == "none seen"


@pytest.mark.parametrize("habit", ["forward returns: list", "backward returns: None", "backward: raises KeyError"])
def test_the_layer_is_named_by_whatever_meets_it(habit):
    for name, run in Case((habit,), "branch").instruments().items():
        if name != "bn-doctor" or habit.startswith("forward"):
            outcome = judge(run)
            assert outcome.kind in ("fault", "error of ours")
            assert "odd" in outcome.said, f"{name}: {outcome.said}"
