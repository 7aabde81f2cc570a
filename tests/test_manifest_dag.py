"""depends_on: parents come before children, circles and unknown ones are refused (K3)."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.cid import cid_of, cid_text
from protocols.manifest import CycleError, UnknownDependencyError, topological_order

Graph = dict[bytes, Sequence[bytes]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs without circles, their names in no order that helps."""
    count = draw(st.integers(0, 12))
    names = draw(st.permutations([cid_of(bytes([n])) for n in range(count)]))
    graph: Graph = {}
    for at, name in enumerate(names):
        graph[name] = draw(st.lists(st.sampled_from(names[:at]), max_size=4)) if at else []
    return dict(draw(st.permutations(list(graph.items()))))


@given(graphs())
def test_parents_come_before_children(graph: Graph) -> None:
    order = topological_order(graph)
    assert sorted(order) == sorted(graph)
    at = {cid: place for place, cid in enumerate(order)}
    assert all(at[parent] < at[child] for child in graph for parent in graph[child])


@given(graphs(), st.randoms())
def test_the_order_is_the_same_everywhere(graph: Graph, draw: object) -> None:
    items = list(graph.items())
    draw.shuffle(items)  # type: ignore[attr-defined]
    assert topological_order(dict(items)) == topological_order(graph)


@given(graphs(), st.data())
def test_a_circle_is_refused_by_name(graph: Graph, data: st.DataObject) -> None:
    if not graph:
        return
    order = topological_order(graph)
    lo = data.draw(st.integers(0, len(order) - 1))
    hi = data.draw(st.integers(lo, len(order) - 1))
    graph[order[lo]] = [*graph[order[lo]], order[hi]]
    if hi > lo:
        graph[order[hi]] = [*graph[order[hi]], order[lo]]
    with pytest.raises(CycleError, match="a circle of dependencies") as caught:
        topological_order(graph)
    circle = caught.value.message.split(": ")[1].split(" -> ")
    assert circle[0] == circle[-1]
    texts = {cid_text(cid): [cid_text(parent) for parent in graph[cid]] for cid in graph}
    assert all(parent in texts[child] for child, parent in itertools.pairwise(circle))


@given(graphs(), st.data())
def test_an_unknown_dependency_is_refused_unless_it_is_there(
    graph: Graph, data: st.DataObject
) -> None:
    if not graph:
        return
    stranger = cid_of(b"stranger")
    child = data.draw(st.sampled_from(sorted(graph)))
    graph[child] = [*graph[child], stranger]
    with pytest.raises(UnknownDependencyError) as caught:
        topological_order(graph)
    assert cid_text(stranger) in caught.value.message
    assert cid_text(child) in caught.value.message
    assert child in topological_order(graph, known=[stranger])
