"""The picture of a council's run shows who led, who was behind and who was gone."""

from pathlib import Path

import numpy as np
import pytest

from simnet.timeline import Mark, Sample, Timeline

picture = pytest.importorskip("simnet.councilpicture", reason="the extra `demo` draws")


def run(behind: bool = False) -> Timeline:
    """Daemon 0 leads for ten seconds and is killed; daemon 1 leads from then on."""
    timeline = Timeline(title="t", seed=1, daemons=3, has_ledger=True, seconds=20)
    timeline.marks = [Mark(0, number, "start") for number in range(3)]
    timeline.marks += [Mark(10, 0, "kill"), Mark(10, None, "kill", "the leader is killed")]
    for at in range(20):
        for daemon in range(3):
            if daemon == 0 and at >= 10:
                continue
            index = 5 if behind and daemon == 2 and at > 5 else at
            leads = daemon == (0 if at < 10 else 1)
            role = "leader" if leads else "member" if daemon < 2 else "follower"
            timeline.samples.append(
                Sample(
                    at=at,
                    daemon=daemon,
                    connected=2,
                    live=3,
                    announcements=0,
                    tiles=[],
                    index=index,
                    role=role,
                )
            )
    return timeline


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_drawn(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"picture.{kind}"
    picture.draw(run(), path)
    assert path.stat().st_size > 5000


def at(grid: picture.Grid, daemon: int, second: float) -> float:
    return float(grid[daemon, round(second / 20 * (picture.COLUMNS - 1))])


def test_roles_over_time() -> None:
    roles, _ = picture.grids(run())
    assert (at(roles, 0, 5), at(roles, 1, 5)) == (picture.LEADS, picture.SITS)
    assert np.isnan(at(roles, 0, 15))
    assert (at(roles, 1, 15), at(roles, 2, 15)) == (picture.LEADS, picture.FOLLOWS)


def test_a_ledger_that_stands_still_is_behind() -> None:
    roles, indices = picture.grids(run(behind=True))
    assert at(roles, 2, 7) == picture.FOLLOWS  # less than three seconds
    assert at(roles, 2, 15) == picture.BEHIND
    assert (at(indices, 1, 15.5), at(indices, 2, 15.5)) == (15, 5)
