"""A picture of upgrades: what answered on each daemon, how far each stage was, and the goal.

One row a daemon, its colour the version that answers; below, on how much of the network the newest
one ran; and where what owners wanted stood in the lists that they were shown.
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
    FAINT,
    IDLE,
    MARKS,
    STYLE,
    headline,
    legend,
    mark,
    panel_title,
    world_marks,
)
from simnet.timeline import Answering, StageBegan, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#dfe6ec", "#38a3a5", "#d1495b", "#22577a", "#e3b23c", "#8f6d92")
"""Of version 0, the built-in one, and those after it; then from version 1 on again."""
LIGHTER = 0.5
"""Of a candidate that a coin gives a part of the operations: so far towards white."""
GOOD, BAD = "#3a7d44", "#c1292e"
BIN_S = 1.0
"""Choices of so long are one point."""
ENDS = {"settle": ("kept", GOOD), "rollback": ("undone", BAD), "lapse": ("lapsed", FAINT)}

Grid = np.ndarray[Any, np.dtype[np.float64]]


def draw(timeline: Timeline, path: Path) -> None:
    """Write the picture of `timeline`; the file's ending says PNG or SVG."""
    with mpl.rc_context(STYLE):
        rows = 0.3 * timeline.daemons + 0.3
        height = 5.6 + rows
        figure = Figure(figsize=(11.5, height))
        place = (0.085, 4.4 / height, 0.88, rows / height)
        axes = figure.add_axes(place)
        stages = figure.add_axes((0.085, 2.85 / height, 0.88, 1.0 / height), sharex=axes)
        goal = figure.add_axes((0.085, 1.05 / height, 0.88, 1.25 / height), sharex=axes)
        _rows(axes, timeline)
        _stages(stages, timeline)
        _goal(goal, timeline)
        headline(figure, timeline, height)
        _legend(figure, timeline)
        figure.savefig(path, dpi=150, facecolor="white")


def colour_of(version: int) -> str:
    """The colour of a version."""
    return COLOURS[version] if version < len(COLOURS) else COLOURS[1 + version % (len(COLOURS) - 1)]


def ruled(timeline: Timeline) -> list[StageBegan]:
    """Each stage entry once, when the first daemon had it."""
    found: dict[tuple[str, int, int, str], StageBegan] = {}
    for each in timeline.stages:
        found.setdefault((each.slot, each.version, each.permille, each.event), each)
    return sorted(found.values(), key=lambda each: each.at)


def answering(timeline: Timeline, daemon: int) -> tuple[Grid, Grid]:
    """By moment, the version that answers on a daemon, and whether on all operations. NaN where it
    does not run."""
    moments = np.linspace(0, timeline.seconds, COLUMNS)
    version, whole = np.full(COLUMNS, np.nan), np.ones(COLUMNS)
    changes = [each for each in timeline.answering if each.daemon == daemon]
    ended = [each for each in ruled(timeline) if each.event != "open"]
    for since, until in timeline.ups(daemon):
        for column in np.flatnonzero((moments >= since) & (moments <= until)):
            last = _last(changes, float(moments[column]))
            version[column] = 0 if last is None else last.version
            whole[column] = last is None or any(
                (each.version, each.slot) == (last.version, last.slot)
                and each.at <= moments[column] + BIN_S
                for each in ended
            )
    return version, whole


def _last(changes: list[Answering], at: float) -> Answering | None:
    return next((each for each in reversed(changes) if each.at <= at), None)


def _rows(axes: "Axes", timeline: Timeline) -> None:
    found = [answering(timeline, daemon) for daemon in range(timeline.daemons)]
    most = int(np.nanmax([0, *(np.nanmax(version, initial=0) for version, _ in found)]))
    solid = [mpl.colors.to_rgb(colour_of(version)) for version in range(most + 1)]
    light = [tuple(part + (1 - part) * LIGHTER for part in colour) for colour in solid]
    grid = np.array([version + (1 - whole) * (most + 1) for version, whole in found])
    axes.imshow(
        grid,
        extent=(0, timeline.seconds, timeline.daemons - 0.5, -0.5),
        aspect="auto",
        cmap=ListedColormap([*solid, *light]).with_extremes(bad="white"),
        vmin=-0.5,
        vmax=2 * (most + 1) - 0.5,
        interpolation="nearest",
    )
    for row in range(1, timeline.daemons):
        axes.axhline(row - 0.5, color="white", linewidth=1.5)
    for each in timeline.marks:
        if each.daemon is not None and each.kind in MARKS and each.kind not in ("start", "pull"):
            mark(axes, each.at, each.daemon, each.kind, 7)
    world_marks(axes, timeline)
    axes.set(ylabel="daemon", xlim=(0, timeline.seconds))
    axes.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.tick_params(labelbottom=False, length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _stages(axes: "Axes", timeline: Timeline) -> None:
    """The share of the network that an upgrade's stage has, from entry to entry."""
    at, share = [0.0], [0.0]
    for each in ruled(timeline):
        at.append(each.at)
        share.append(each.permille / 10 if each.event == "open" else 0.0)
        if each.event != "open":
            words, colour = ENDS[each.event]
            axes.axvline(each.at, color=colour, linewidth=1.2)
            axes.annotate(
                f" {words}: version {each.version} " if each.event == "settle" else f" {words} ",
                (each.at, 62),
                color=colour,
                fontsize=8.5,
                va="top",
                ha="right" if each.at > 0.8 * timeline.seconds else "left",
            )
        elif not each.permille:
            axes.axvline(each.at, color=FAINT, linewidth=1, linestyle=":")
            axes.annotate(" shadow", (each.at, 96), color=FAINT, fontsize=8.5, va="top")
    at.append(timeline.seconds)
    share.append(share[-1])
    axes.fill_between(at, share, step="post", color=COLOURS[3], alpha=0.2, lw=0)
    axes.step(at, share, where="post", color=COLOURS[3], linewidth=1.6)
    axes.set(ylim=(0, 105), ylabel="%", yticks=(10, 50, 100))
    panel_title(axes, "how much of the network the upgrade under way runs on")
    _plain(axes)
    axes.tick_params(labelbottom=False)


def _goal(axes: "Axes", timeline: Timeline) -> None:
    """Mean, least and greatest place of what owners chose, second by second."""
    bins: dict[int, list[int]] = {}
    for each in timeline.chosen:
        bins.setdefault(int(each.at / BIN_S), []).append(each.place)
    at = [(number + 0.5) * BIN_S for number in sorted(bins)]
    found = [bins[number] for number in sorted(bins)]
    low, high = [min(each) for each in found], [max(each) for each in found]
    mean = [sum(each) / len(each) for each in found]
    axes.fill_between(at, low, high, color=COLOURS[1], alpha=0.25, lw=0)
    axes.plot(at, mean, color=COLOURS[3], linewidth=1.6)
    most = max(high, default=1)
    axes.set(xlabel="seconds", ylabel="place", ylim=(most + 0.4, 0.6))
    panel_title(
        axes,
        "the goal: the place of what owners then chose, mean (line) and range (band);"
        " higher up is better",
    )
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)


def _plain(axes: "Axes") -> None:
    axes.grid(axis="y", color=IDLE)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _named(version: int, *, back: bool) -> str:
    if not version:
        return "built in"
    return f"version {version}: what was before" if back else f"version {version}"


def _legend(figure: Figure, timeline: Timeline) -> None:
    versions = sorted({0, *(each.version for each in timeline.answering)})
    back = {each.version for each in timeline.stages if each.event == "rollback"}
    handles = [
        Patch(color=colour_of(version), label=_named(version, back=version in back))
        for version in versions
    ]
    handles.append(Patch(color="#9fb3c0", alpha=LIGHTER, label="lighter: for a part of the calls"))
    done = {each.kind for each in timeline.marks} - {"pull", "start"}
    legend(figure, handles, done, columns=6)
