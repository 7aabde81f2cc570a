"""A picture of learning: who learned, how the loss fell, at what cost, and what was written.

One row a daemon, coloured while it learns, with what was done to it; below, the loss of each
learner's rounds against time and against the bytes that all of training's messages took.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simnet.picture import (
    FAINT,
    IDLE,
    INK,
    MARKS,
    STYLE,
    headline,
    legend,
    mark,
    panel_title,
    world_marks,
)
from simnet.timeline import Learning, Text, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEARNS, SERVES, LOSS, MEAN = "#38a3a5", "#c9d6df", "#9fd3d4", "#22577a"
SUMS = "#b5651d"
WRITTEN = 150
"""Characters of a text that are shown."""
WRAP = 62
TEXTS = 1.45
"""Inches for them."""
UNSEEN_S = 8.0
"""Between two samples of one life: the machine was busy."""
MB = 1e6


def draw(timeline: Timeline, path: Path) -> None:
    """Write the picture of `timeline`; the file's ending says PNG or SVG."""
    with mpl.rc_context(STYLE):
        rows = 0.3 * timeline.daemons + 0.3
        texts = TEXTS if timeline.texts else 0.0
        height = 4.5 + texts + rows
        figure = Figure(figsize=(11.5, height))
        axes = figure.add_axes((0.085, (3.4 + texts) / height, 0.88, rows / height))
        by_time = figure.add_axes((0.085, (0.95 + texts) / height, 0.535, 1.9 / height))
        by_bytes = figure.add_axes(
            (0.665, (0.95 + texts) / height, 0.3, 1.9 / height), sharey=by_time
        )
        if timeline.texts:
            written = figure.add_axes((0.085, 0.7 / height, 0.88, 1.1 / height))
            _texts(written, timeline.texts)
        _rows(axes, timeline)
        _loss(by_time, timeline)
        _bytes(by_bytes, timeline)
        headline(figure, timeline, height)
        _legend(figure, timeline)
        figure.savefig(path, dpi=150, facecolor="white")


def losses(timeline: Timeline, daemon: int) -> list[Learning]:
    """The samples of a daemon that have a new loss: one for each run of steps that it trained."""
    found: list[Learning] = []
    last: float | None = None
    for each in timeline.learning:
        if each.daemon == daemon and each.loss is not None and each.loss != last:
            last = each.loss
            found.append(each)
    return found


def mean_loss(timeline: Timeline) -> list[tuple[float, float]]:
    """(time, mean of the learners' newest losses), from when most have one, where one changes."""
    learners = {each.daemon for each in timeline.learning if each.loss is not None}
    newest: dict[int, float] = {}
    line: list[tuple[float, float]] = []
    for each in timeline.learning:
        if each.loss is not None and newest.get(each.daemon) != each.loss:
            newest[each.daemon] = each.loss
            if 2 * len(newest) > len(learners):
                line.append((each.at, sum(newest.values()) / len(newest)))
    return line


def traffic(timeline: Timeline) -> list[tuple[float, float]]:
    """(time, bytes that all daemons together have received): counters begin anew at a restart."""
    before: dict[int, int] = {}
    whole = 0
    line = [(0.0, 0.0)]
    for each in timeline.learning:
        was = before.get(each.daemon, 0)
        whole += each.bytes_in - was if each.bytes_in >= was else each.bytes_in
        before[each.daemon] = each.bytes_in
        line.append((each.at, float(whole)))
    return line


def _rows(axes: "Axes", timeline: Timeline) -> None:
    for daemon in range(timeline.daemons):
        for since, until in timeline.ups(daemon):
            axes.barh(daemon, until - since, left=since, height=0.72, color=SERVES, lw=0, zorder=1)
            for begin, end in _learned(timeline, daemon, since, until):
                axes.barh(daemon, end - begin, left=begin, height=0.72, color=LEARNS, zorder=2)
        sums = [each.at for each in timeline.sums if each.daemon == daemon]
        axes.vlines(sums, daemon + 0.2, daemon + 0.36, color=SUMS, lw=0.8, zorder=3)
        for each in timeline.marks:
            if each.daemon == daemon and each.kind in MARKS and each.kind not in ("start", "vote"):
                mark(axes, each.at, daemon, each.kind, 7)
    world_marks(axes, timeline)
    axes.set(
        ylabel="daemon",
        xlim=(0, timeline.seconds),
        ylim=(timeline.daemons - 0.5, -0.5),
        xlabel="seconds",
    )
    axes.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    _plain(axes, grid=False)


def _learned(
    timeline: Timeline, daemon: int, since: float, until: float
) -> list[tuple[float, float]]:
    """When it had joined, in one of its lives."""
    spans: list[tuple[float, float]] = []
    for each in timeline.learning:
        if each.daemon != daemon or not since <= each.at <= until or not each.joined:
            continue
        if spans and each.at - spans[-1][1] < UNSEEN_S:
            spans[-1] = (spans[-1][0], each.at)
        else:
            spans.append((each.at, each.at))
    return spans


def _loss(axes: "Axes", timeline: Timeline) -> None:
    for daemon in range(timeline.daemons):
        points = losses(timeline, daemon)
        axes.plot([e.at for e in points], [e.loss or 0 for e in points], color=LOSS, lw=1, zorder=1)
    line = mean_loss(timeline)
    axes.plot([at for at, _ in line], [loss for _, loss in line], color=MEAN, lw=1.8, zorder=2)
    for each in timeline.marks:
        if each.kind == "kill":
            axes.axvline(each.at, color=MARKS["kill"][1], lw=1, ls=":")
    axes.set(xlabel="seconds", ylabel="nats a token", xlim=(0, timeline.seconds))
    panel_title(axes, "loss of each learner's rounds, and their mean")
    _plain(axes)


def _bytes(axes: "Axes", timeline: Timeline) -> None:
    moments, counted = traffic(timeline), 0
    points: list[tuple[float, float]] = []
    for at, loss in mean_loss(timeline):
        while counted + 1 < len(moments) and moments[counted + 1][0] <= at:
            counted += 1
        points.append((moments[counted][1] / MB, loss))
    axes.plot([size for size, _ in points], [loss for _, loss in points], color=MEAN, lw=1.8)
    axes.set(xlabel="MB received by all together")
    axes.set_xlim(left=0)
    panel_title(axes, "... against the bytes that it took")
    axes.tick_params(labelleft=False)
    _plain(axes)


def _texts(axes: "Axes", texts: Sequence[Text]) -> None:
    axes.set_axis_off()
    shown = [texts[0], texts[-1]] if len(texts) > 1 else list(texts)
    for place, each in enumerate(shown):
        left = place * 0.51
        when = "before" if place == 0 else "after"
        axes.text(left, 1.0, f"{when}, at {each.at:.0f} s", color=FAINT, fontsize=8.5, va="top")
        axes.text(
            left,
            0.8,
            "\n".join(_wrapped(each.prompt + each.text)),
            family="DejaVu Sans Mono",
            fontsize=7.6,
            color=INK,
            va="top",
        )


def _wrapped(text: str) -> list[str]:
    # The font has no signs for most of what an untrained model writes.
    clean = "".join(c if " " <= c <= "~" or c == "\n" else "\N{MIDDLE DOT}" for c in text[:WRITTEN])
    return [
        part.replace("$", r"\$")
        for line in clean.splitlines()
        for part in textwrap.wrap(line, WRAP) or [""]
    ][:6]


def _plain(axes: "Axes", *, grid: bool = True) -> None:
    if grid:
        axes.grid(axis="y", color=IDLE)
        axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _legend(figure: Figure, timeline: Timeline) -> None:
    handles = [
        Patch(color=LEARNS, label="learns"),
        Patch(color=SERVES, label="runs, and may serve tile groups"),
    ]
    if timeline.sums:
        handles.append(Patch(color=SUMS, label="sums its region's deltas"))
    done = {each.kind for each in timeline.marks} - {"start", "vote"}
    legend(figure, handles, done, columns=8 if len(done) < 5 else 5)
