"""The timeline's arithmetic, and that pictures of every kind of run can be drawn."""

from pathlib import Path

import msgspec
import pytest

from simnet.timeline import Mark, Sample, Timeline, copies, count, covers


def test_copies_of_each_tile() -> None:
    assert copies([[(0, 3)], [(1, 1), (4, 9)], []], 5) == [1, 2, 1, 0, 1]
    assert copies([], 2) == [0, 0]
    assert count([(0, 3), (7, 2)]) == 5
    assert covers([(0, 5)], 5)
    assert not covers([(0, 4)], 5)
    assert not covers([], 0)


def model_run() -> Timeline:
    marks = [
        Mark(0.5, 0, "start"),
        Mark(0.6, 1, "start"),
        Mark(2, 0, "import"),
        Mark(6, 1, "kill"),
        Mark(8, 1, "restart"),
        Mark(8, None, "partition", "two halves"),
        Mark(9, 1, "pull"),
    ]
    samples = [
        Sample(at=t, daemon=d, connected=1, live=2, announcements=t, tiles=[(0, 2 + t)], held=0.5)
        for t in range(1, 12)
        for d in (0, 1)
        if not (d == 1 and 6 <= t < 8)
    ]
    return Timeline(
        title="t",
        seed=1,
        daemons=2,
        model="m",
        tiles=20,
        copies=2,
        seconds=12,
        marks=marks,
        samples=samples,
    )


def test_lives_and_roles() -> None:
    timeline = model_run()
    assert timeline.ups(1) == [(0.6, 6), (8, 12)]
    assert timeline.ups(0) == [(0.5, 12)]
    assert (timeline.role(0), timeline.role(1)) == ("origin", "newcomer")
    again = msgspec.json.decode(msgspec.json.encode(timeline), type=Timeline)
    assert again == timeline


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize("model", [True, False])
def test_a_picture_is_drawn(tmp_path: Path, kind: str, model: bool) -> None:
    picture = pytest.importorskip("simnet.picture", reason="the extra `demo` draws")
    timeline = model_run()
    if not model:
        timeline.tiles = 0
    path = tmp_path / f"picture.{kind}"
    picture.draw(timeline, path)
    assert path.stat().st_size > 5000


def test_what_was_held_shows_in_the_picture(tmp_path: Path) -> None:
    picture = pytest.importorskip("simnet.picture", reason="the extra `demo` draws")
    held, empty = model_run(), model_run()
    for sample in empty.samples:
        sample.tiles, sample.held = [], 0.0
    picture.draw(held, tmp_path / "held.png")
    picture.draw(empty, tmp_path / "empty.png")
    assert (tmp_path / "held.png").read_bytes() != (tmp_path / "empty.png").read_bytes()


def test_words_above_a_picture_stand_side_by_side_or_on_another_level() -> None:
    picture = pytest.importorskip("simnet.picture", reason="the extra `demo` draws")
    free = [0.0] * 3
    levels = [picture.level_for(free, begin, 10.0) for begin in (0.0, 4.0, 8.0, 10.0, 30.0)]
    assert levels == [0, 1, 2, 0, 0]
    assert picture.level_for(free, 31.0, 10.0) == 1
