"""Rollout and learning rate of every update, by hand."""

from __future__ import annotations

import math

import pytest

from forecast.core.sections import Stage
from forecast.training.curriculum import Curriculum


def rates(**stage: object) -> list[float]:
    curriculum = Curriculum([Stage.model_validate({"lr": 2.0, **stage})])
    return [curriculum.at(i).lr for i in range(curriculum.updates)]


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_nothing() -> None:
    lr = rates(updates=12, warmup=4)
    assert lr[:4] == [0.5, 1.0, 1.5, 2.0]
    assert lr[4:] == pytest.approx([1 + math.cos(math.pi * i / 8) for i in range(8)])
    assert lr[8] == pytest.approx(1.0) and lr[-1] < 0.08


def test_a_constant_stage_stays_at_its_rate() -> None:
    assert rates(updates=5, warmup=2, schedule="constant") == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_warmup_may_fill_a_stage() -> None:
    assert rates(updates=2, warmup=4) == [0.5, 1.0]


def test_stages_follow_each_other_and_rollout_grows_in_even_legs() -> None:
    stages = [Stage(updates=3, lr=1.0), Stage(updates=7, rollout=(2, 4), lr=0.1), Stage(updates=2, rollout=4, lr=0.1)]
    curriculum = Curriculum(stages)
    plans = [curriculum.at(i) for i in range(curriculum.updates)]
    assert [p.rollout for p in plans] == [1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4]
    assert [p.since for p in plans] == [0, 0, 0, 3, 3, 3, 6, 6, 8, 8, 10, 10]
    assert [p.stage for p in plans] == [0] * 3 + [1] * 7 + [2] * 2
    assert curriculum.rollouts() == [1, 2, 3, 4]


@pytest.mark.parametrize(("updates", "first", "last"), [(7, 2, 4), (60, 2, 4), (5, 1, 12), (12, 1, 12), (1, 3, 9)])
def test_a_leg_begins_where_its_rollout_first_occurs(updates: int, first: int, last: int) -> None:
    curriculum = Curriculum([Stage(updates=4, lr=1.0), Stage(updates=updates, rollout=(first, last), lr=1.0)])
    plans = [curriculum.at(i) for i in range(4, curriculum.updates)]
    for i, plan in enumerate(plans, 4):
        assert plan.since == 4 + [p.rollout for p in plans].index(plan.rollout)
        assert i >= plan.since
