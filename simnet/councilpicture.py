"""A picture of a council's run: who led, who followed, who fell behind, and the ledger's growth.

One row a daemon, its colour what it was to the council; below, how far the ledgers were.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simnet.picture import (
    COLUMNS,
    IDLE,
    MARKS,
    STYLE,
    headline,
    latest,
    legend,
    mark,
    panel_title,
    world_marks,
)
from simnet.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEHIND_S = 3.0
"""A ledger that lacks what another had so long ago is drawn as behind."""

KINDS = (
    ("#dfe6ec", "follows"),
    ("#38a3a5", "sits in the council"),
    ("#22577a", "leads it"),
    ("#e3b23c", f"more than {BEHIND_S:g} s behind"),
    ("#8f6d92", "has lost what it signed: does not sign"),
)
FOLLOWS, SITS, LEADS, BEHIND, LOST = range(len(KINDS))
OF_ROLE = {"leader": LEADS, "member": SITS, "lost-state": LOST}

Grid = np.ndarray[Any, np.dtype[np.float64]]


def draw(timeline: Timeline, path: Path) -> None:
    """Write the picture of `timeline`; the file's ending says PNG or SVG."""
    with mpl.rc_context(STYLE):
        height = 4.1 + 0.24 * timeline.daemons
        figure = Figure(figsize=(11.5, height))
        rows = 0.24 * timeline.daemons + 0.3
        axes = figure.add_axes((0.085, 2.75 / height, 0.88, rows / height))
        lower = figure.add_axes((0.085, 1.0 / height, 0.88, 1.35 / height), sharex=axes)
        roles, indices = grids(timeline)
        _rows(axes, timeline, roles)
        _growth(lower, timeline, indices)
        headline(figure, timeline, height)
        _legend(figure, timeline)
        figure.savefig(path, dpi=150, facecolor="white")


def _moments(timeline: Timeline) -> Grid:
    return np.linspace(0, timeline.seconds, COLUMNS)


def grids(timeline: Timeline) -> tuple[Grid, Grid]:
    """What each daemon was (an index of KINDS), and its ledger's index, by daemon and moment.

    NaN while it does not run.
    """
    indices = _sampled(timeline, lambda sample: float(sample.index))
    roles = _sampled(timeline, lambda sample: OF_ROLE.get(sample.role, FOLLOWS))
    shift = round(BEHIND_S / timeline.seconds * COLUMNS)
    highest = np.fmax.accumulate(np.nan_to_num(indices).max(axis=0))
    wanted = np.concatenate((np.zeros(shift), highest))[:COLUMNS]
    roles[(indices < wanted) & (roles != LOST)] = BEHIND
    return roles, indices


def _sampled(timeline: Timeline, value: Any) -> Grid:
    found = np.full((timeline.daemons, COLUMNS), np.nan)
    moments = _moments(timeline)
    for daemon in range(timeline.daemons):
        samples = timeline.of(daemon)
        for since, until in timeline.ups(daemon):
            for column in np.flatnonzero((moments >= since) & (moments <= until)):
                sample = latest(samples, since, float(moments[column]))
                if sample is not None:
                    found[daemon, column] = value(sample)
    return found


def _rows(axes: "Axes", timeline: Timeline, roles: Grid) -> None:
    axes.imshow(
        roles,
        extent=(0, timeline.seconds, timeline.daemons - 0.5, -0.5),
        aspect="auto",
        cmap=ListedColormap([colour for colour, _ in KINDS]).with_extremes(bad="white"),
        vmin=-0.5,
        vmax=len(KINDS) - 0.5,
        interpolation="nearest",
    )
    for row in range(1, timeline.daemons):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    for each in timeline.marks:
        if each.daemon is not None and each.kind in MARKS and each.kind != "start":
            mark(axes, each.at, each.daemon, each.kind, 7)
    world_marks(axes, timeline)
    axes.set(ylabel="daemon", xlim=(0, timeline.seconds))
    axes.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.tick_params(labelbottom=False, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _growth(axes: "Axes", timeline: Timeline, indices: Grid) -> None:
    moments = _moments(timeline)
    seen = ~np.all(np.isnan(indices), axis=0)
    low = np.nanmin(indices[:, seen], axis=0)
    high = np.nanmax(indices[:, seen], axis=0)
    axes.fill_between(moments[seen], low, high, color=KINDS[SITS][0], alpha=0.25, lw=0)
    axes.step(moments[seen], high, where="post", color=KINDS[LEADS][0], linewidth=1.6)
    axes.set(xlabel="seconds", ylabel="entries", ylim=(0, None))
    panel_title(axes, "ratified entries: the longest ledger (line), down to the shortest (band)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=IDLE)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _legend(figure: Figure, timeline: Timeline) -> None:
    handles = [Patch(color=colour, label=words) for colour, words in KINDS]
    done = {each.kind for each in timeline.marks}
    legend(figure, handles, done, columns=6)
