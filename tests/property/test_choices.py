"""Verdicts and choices on any numbers."""

from itertools import pairwise

import pandas as pd
from hypothesis import example, given
from hypothesis import strategies as st

from ddrs.certification.records import Log
from ddrs.results.envelope import average_certified_radius, certified_accuracy
from ddrs.results.selection import choose, configuration
from ddrs.statistics.intervals import difference, share, verdict

COUNTS = st.integers(1, 10_000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images)))
RADIUS = st.sampled_from([0.0, 0.25, 0.5, 1.0])
GRID = [0.0, 0.25, 0.5, 1.0]


@given(COUNTS, COUNTS)
@example((0, 1), (74, 74))
def test_a_difference_contains_its_value_and_turns_with_its_sides(ours: tuple[int, int], theirs: tuple[int, int]):
    a, b = (share(100 * hits / images, images) for hits, images in (ours, theirs))
    there, back = difference([a], [b]), difference([b], [a])
    assert -100 <= there.low <= there.value <= there.high <= 100
    assert abs(there.low + back.high) < 1e-9 and abs(there.high + back.low) < 1e-9
    assert {verdict(there), verdict(back)} in ({"within"}, {"above", "below"})


@given(COUNTS)
def test_nothing_differs_from_itself(ours: tuple[int, int]):
    one = share(100 * ours[0] / ours[1], ours[1])
    assert verdict(difference([one], [one])) == "within"


@given(st.integers(0, 1000))
def test_the_verdict_is_monotone_in_our_value(theirs: int):
    words = [verdict(difference([share(100 * hits / 200, 200)], [share(theirs / 10, 1000)])) for hits in range(0, 201, 10)]
    order = ["below", "within", "above"]
    assert all(order.index(one) <= order.index(other) for one, other in pairwise(words))


@given(st.data())
def test_the_choice_is_the_best_and_does_not_depend_on_the_order(data: st.DataObject):
    places = data.draw(st.lists(st.tuples(st.sampled_from([0.12, 0.25, 0.5]), st.sampled_from([5, 20, 100])), min_size=1, max_size=6, unique=True))
    images = data.draw(st.integers(1, 4))
    logs = []
    for sigma, k in places:
        radii = data.draw(st.lists(RADIUS, min_size=images, max_size=images))
        correct = data.draw(st.lists(st.sampled_from([0, 1]), min_size=images, max_size=images))
        columns = {"idx": range(images), "label": 1, "radius": radii, "correct": correct, "split": "validation", "sigma0": sigma, "K": str(k)}
        logs.append(Log(f"{sigma} {k}", pd.DataFrame(columns)))
    choice = choose(logs, GRID)
    assert choose(data.draw(st.permutations(logs)), GRID).per_radius == choice.per_radius
    by_place = {configuration(log): log for log in logs}
    for i, place in enumerate(choice.per_radius):
        assert certified_accuracy(by_place[place], GRID)[i] == max(certified_accuracy(log, GRID)[i] for log in logs) == choice.accuracy[i]
    assert average_certified_radius(by_place[choice.for_acr]) == max(average_certified_radius(log) for log in logs) == choice.acr
