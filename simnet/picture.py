"""A picture of a run: who held what, when, and how many copies of each tile there were.

One row a daemon: time runs to the right, the model's tiles from top to bottom, colour where the
daemon held them. Worlds without a model show how much of the catalog each daemon had instead.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from simnet.timeline import Runs, Sample, Timeline, copies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 900
"""Moments along the picture: about one a pixel column."""

BINS = 32
"""Bands of tiles in one row; a band's shade is the share of its tiles that are held."""

MANY = 24
"""More daemons than this are drawn as one heat map."""

LEVELS = 3
"""Of words above a picture: what fits below the headline."""
LETTER_INCHES = 0.075
"""Of words at 8 points, on average."""

INK = "#1b2430"
FAINT = "#8a94a3"
IDLE = "#e9edf2"
ROLES = {
    "origin": ("#22577a", "imported it"),
    "swarm": ("#38a3a5", "holds it for the swarm, unasked"),
    "newcomer": ("#e08e45", "pulled it"),
}
TROUBLE = "#c1292e"
MARKS = {  # kind -> (symbol, colour, words)
    "kill": ("X", TROUBLE, "killed (-9)"),
    "died": ("X", "#000000", "died by itself"),
    "stop": ("s", FAINT, "stopped"),
    "pause": ("d", "#b8860b", "paused"),
    "resume": (">", "#b8860b", "resumed"),
    "restart": ("^", "#3a7d44", "started again"),
    "import": ("o", "#22577a", "import"),
    "pull": ("v", "#b5651d", "asks for the model"),
    "pulled": ("D", "#b5651d", "has the whole model"),
    "exported": ("*", "#6a4c93", "exported, cmp equal"),
    "wipe": ("P", TROUBLE, "lost its disk"),
    "double-sign": ("h", "#000000", "a liar: signs twice"),
    "propose": ("o", "#6a4c93", "proposes"),
    "vote": ("v", "#6a4c93", "votes"),
    "liar": ("h", "#000000", "a liar: sends what it did not learn"),
    "caught": ("X", "#000000", "caught: summed wrongly"),
    "join": (">", "#22577a", "begins to learn"),
    "leave": ("s", "#22577a", "learns no more"),
    "generate": ("*", "#6a4c93", "writes text"),
}
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def draw(timeline: Timeline, path: Path) -> None:
    """Write the picture of `timeline`; the file's ending says PNG or SVG."""
    with mpl.rc_context(STYLE):
        if timeline.tiles and timeline.daemons <= MANY:
            figure = _model_figure(timeline)
        else:
            figure = _swarm_figure(timeline)
        figure.savefig(path, dpi=150, facecolor="white")


# -- who held what ----------------------------------------------------------------------------


def _model_figure(timeline: Timeline) -> Figure:
    rows = timeline.daemons
    height = 2.9 + 0.62 * rows
    figure = Figure(figsize=(11.5, height))
    bottom, top = 0.95 / height, 1 - 1.0 / height
    below = 1.15 / height  # the panel of copies
    grid = figure.add_gridspec(
        1, 1, left=0.085, right=0.925, bottom=bottom + below + 0.32 / height, top=top
    )
    axes = figure.add_subplot(grid[0])
    lower = figure.add_axes((0.085, bottom, 0.84, below), sharex=axes)
    for daemon in range(rows):
        _row(axes, timeline, daemon)
    axes.set(xlim=(0, timeline.seconds), ylim=(rows - 0.42, -0.58))
    axes.set_yticks(range(rows), [f"daemon {number}" for number in range(rows)])
    axes.tick_params(axis="both", length=0, labelbottom=False)
    for side in axes.spines.values():
        side.set_visible(False)
    world_marks(axes, timeline)
    _copies_panel(lower, timeline)
    headline(figure, timeline, height)
    _legend(figure, timeline)
    return figure


def _row(axes: "Axes", timeline: Timeline, daemon: int) -> None:
    colour, _ = ROLES[timeline.role(daemon)]
    shades = LinearSegmentedColormap.from_list("", [to_rgb(IDLE), to_rgb(colour)])
    samples = timeline.of(daemon)
    for since, until in timeline.ups(daemon):
        width = max(2, round(COLUMNS * (until - since) / timeline.seconds))
        held = np.zeros((BINS, width))
        for column, at in enumerate(np.linspace(since, until, width)):
            sample = latest(samples, since, float(at))
            if sample is not None:
                held[:, column] = _bands(sample, timeline)
        axes.imshow(
            held,
            extent=(since, until, daemon + 0.36, daemon - 0.36),
            aspect="auto",
            cmap=shades,
            vmin=0,
            vmax=1,
            interpolation="nearest",
            zorder=2,
        )
    axes.plot((0, timeline.seconds), (daemon, daemon), color=IDLE, linewidth=1, zorder=1)
    if samples and timeline.ups(daemon) and timeline.ups(daemon)[-1][1] >= timeline.seconds:
        share = samples[-1].held
        axes.text(1.008, daemon, f"{share:.0%}", va="center", transform=axes.get_yaxis_transform())
    for each in timeline.marks:
        if each.daemon == daemon and each.kind in MARKS:
            mark(axes, each.at, daemon, each.kind)


def mark(axes: "Axes", at: float, daemon: int, kind: str, size: float = 9) -> None:
    """Draw something that happened to a daemon."""
    symbol, colour, _ = MARKS[kind]
    axes.plot(
        at,
        daemon,
        marker=symbol,
        markersize=size + 3 if symbol == "*" else size,
        color=colour,
        markeredgecolor="white",
        markeredgewidth=1.1,
        zorder=5,
        clip_on=False,
    )


def world_marks(axes: "Axes", timeline: Timeline) -> None:
    """What was done to the world: a line each, its words above, on a higher level where close."""
    inches = axes.get_window_extent().width / axes.figure.dpi
    free = [0.0] * LEVELS
    for mark in timeline.marks:
        if mark.daemon is not None:
            continue
        words = mark.note or mark.kind
        late = mark.at > 0.8 * timeline.seconds
        wide = (len(words) + 2) * LETTER_INCHES / inches * timeline.seconds
        level = level_for(free, mark.at - wide if late else mark.at, wide)
        axes.axvline(mark.at, color=TROUBLE, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
        axes.annotate(
            words,
            (mark.at, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, 2 + 11 * level),
            textcoords="offset points",
            horizontalalignment="right" if late else "left",
            color=TROUBLE,
            fontsize=8,
        )


def level_for(free: list[float], begin: float, wide: float) -> int:
    """The lowest level on which something of this width fits behind what stands there; else that
    on which least is covered. `free`: where each level's last words end."""
    fits = [level for level, end in enumerate(free) if end <= begin]
    level = min(fits) if fits else free.index(min(free))
    free[level] = begin + wide
    return level


def latest(samples: list[Sample], since: float, at: float) -> Sample | None:
    """The last sample of this life of the daemon up to `at`."""
    found = None
    for sample in samples:
        if sample.at > at:
            break
        if sample.at >= since:
            found = sample
    return found


def _bands(sample: Sample, timeline: Timeline) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The share held of each of BINS bands of tiles.

    What is held and not announced yet is somewhere in the rest: shade that evenly.
    """
    tiles = timeline.tiles
    sizes = timeline.sizes or [1] * tiles
    announced = sum(sum(sizes[start : start + length]) for start, length in sample.tiles)
    lacking = sum(sizes) - announced
    rest = (sample.held * sum(sizes) - announced) / lacking if lacking else 0.0
    held = np.full(tiles, min(1.0, max(0.0, rest)))
    for start, length in sample.tiles:
        held[start : start + length] = 1
    edges = np.linspace(0, tiles, BINS + 1)
    sums = np.concatenate(([0.0], np.cumsum(held)))
    at_edges = np.interp(edges, np.arange(tiles + 1), sums)
    shares: np.ndarray[Any, np.dtype[np.float64]] = np.diff(at_edges) / (tiles / BINS)
    return shares


def _copies_panel(axes: "Axes", timeline: Timeline) -> None:
    moments = np.linspace(0, timeline.seconds, COLUMNS)
    each = [copies(_holdings(timeline, float(at)), timeline.tiles) for at in moments]
    least = [min(counts) for counts in each]
    most = [max(counts) for counts in each]
    axes.fill_between(moments, least, most, step="post", color=ROLES["swarm"][0], alpha=0.25, lw=0)
    axes.step(moments, least, where="post", color=ROLES["origin"][0], linewidth=1.6)
    if timeline.copies:
        axes.axhline(timeline.copies, color=TROUBLE, linewidth=1, linestyle=(0, (4, 3)))
        axes.text(
            1.008,
            timeline.copies,
            f"R = {timeline.copies}",
            color=TROUBLE,
            va="center",
            transform=axes.get_yaxis_transform(),
        )
    axes.set(ylim=(0, max([*most, timeline.copies]) + 0.6), ylabel="copies", xlabel="seconds")
    panel_title(axes, "copies of each tile on running daemons: least (line) to most (band)")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=IDLE)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _holdings(timeline: Timeline, at: float) -> list[Runs]:
    found = []
    for daemon in range(timeline.daemons):
        for since, until in timeline.ups(daemon):
            sample = latest(timeline.of(daemon), since, at) if since <= at <= until else None
            if sample is not None:
                found.append(sample.tiles)
    return found


# -- worlds without a model, or with very many daemons -----------------------------------------


def _swarm_figure(timeline: Timeline) -> Figure:
    figure = Figure(figsize=(11.5, 7.6))
    axes = figure.add_axes((0.085, 0.36, 0.80, 0.50))
    lower = figure.add_axes((0.085, 0.11, 0.80, 0.19), sharex=axes)
    known = _known(timeline)
    colours = ["#f3f5f8", "#a9d6cf", "#38a3a5", "#22577a"]
    shades = LinearSegmentedColormap.from_list("", colours).with_extremes(bad="white")
    image = axes.imshow(
        known,
        extent=(0, timeline.seconds, timeline.daemons - 0.5, -0.5),
        aspect="auto",
        cmap=shades,
        interpolation="nearest",
    )
    axes.set(ylabel="daemon")
    axes.tick_params(labelbottom=False, length=0)
    bar = figure.colorbar(image, cax=figure.add_axes((0.90, 0.36, 0.015, 0.50)))
    bar.set_label("announcements in its catalog")
    bar.outline.set_visible(False)
    for mark in timeline.marks:
        if mark.daemon is not None and mark.kind in ("kill", "died", "pause"):
            symbol, colour, _ = MARKS[mark.kind]
            axes.plot(mark.at, mark.daemon, marker=symbol, markersize=5, color=colour)
    world_marks(axes, timeline)
    _peers_panel(lower, timeline)
    for panel in (axes, lower):
        for side in panel.spines.values():
            side.set_visible(False)
    headline(figure, timeline, 7.6)
    return figure


def _known(timeline: Timeline) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Catalog entries by daemon and moment; NaN while the daemon does not run."""
    known = np.full((timeline.daemons, COLUMNS), np.nan)
    moments = np.linspace(0, timeline.seconds, COLUMNS)
    for daemon in range(timeline.daemons):
        samples = timeline.of(daemon)
        for since, until in timeline.ups(daemon):
            for column in np.flatnonzero((moments >= since) & (moments <= until)):
                sample = latest(samples, since, float(moments[column]))
                known[daemon, column] = sample.announcements if sample else 0
    return known


def _peers_panel(axes: "Axes", timeline: Timeline) -> None:
    moments = np.linspace(0, timeline.seconds, COLUMNS)
    every = np.full((timeline.daemons, COLUMNS), np.nan)
    for daemon in range(timeline.daemons):
        samples = timeline.of(daemon)
        for since, until in timeline.ups(daemon):
            for column in np.flatnonzero((moments >= since) & (moments <= until)):
                sample = latest(samples, since, float(moments[column]))
                every[daemon, column] = sample.connected if sample else np.nan
    seen = ~np.all(np.isnan(every), axis=0)
    low, middle, high = np.nanpercentile(every[:, seen], (0, 50, 100), axis=0)
    axes.fill_between(moments[seen], low, high, color=ROLES["swarm"][0], alpha=0.25, lw=0)
    axes.plot(moments[seen], middle, color=ROLES["origin"][0], linewidth=1.6)
    axes.set(xlabel="seconds", ylabel="peers", ylim=(0, None), xlim=(0, timeline.seconds))
    axes.grid(axis="y", color=IDLE)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    panel_title(axes, "connected peers of a daemon: median (line), least to most (band)")


def panel_title(axes: "Axes", words: str) -> None:
    """What a panel shows, above it."""
    axes.set_title(words, fontsize=8.5, color=FAINT, loc="left", pad=5)


# -- words ------------------------------------------------------------------------------------


def headline(figure: Figure, timeline: Timeline, height: float) -> None:
    """Title and a line about the run; `height` of the figure in inches."""
    left = 0.085
    figure.text(left, 1 - 0.36 / height, timeline.title, fontsize=14, fontweight="bold")
    parts = [f"{timeline.daemons} daemons", f"{timeline.seconds:.0f} s", f"seed {timeline.seed}"]
    if timeline.model:
        parts.insert(0, f"{timeline.model}, {timeline.tiles} tiles")
    parts.append("every promise kept" if timeline.passed else "FAILED")
    colour = FAINT if timeline.passed else TROUBLE
    figure.text(left, 1 - 0.62 / height, "  ·  ".join(parts), fontsize=9.5, color=colour)


def _legend(figure: Figure, timeline: Timeline) -> None:
    roles = {timeline.role(number) for number in range(timeline.daemons)}
    handles = [
        Patch(color=colour, label=words) for role, (colour, words) in ROLES.items() if role in roles
    ]
    handles.append(Patch(color=IDLE, label="running, tile not held"))
    done = {mark.kind for mark in timeline.marks}
    legend(figure, handles, done, columns=5)


def legend(figure: Figure, patches: list[Patch], done: set[str], *, columns: int) -> None:
    """Below everything: what the colours mean, and the marks of what was `done`."""
    handles: list[Patch | Line2D] = [*patches]
    for kind, (symbol, colour, words) in MARKS.items():
        if kind in done:
            size = 9 if symbol == "*" else 7
            handles.append(
                Line2D(
                    [], [], marker=symbol, ms=size, color=colour, mec="white", ls="", label=words
                )
            )
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=min(columns, len(handles)),
        frameon=False,
        fontsize=8.5,
        handlelength=1.2,
        columnspacing=1.6,
    )
