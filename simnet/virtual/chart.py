"""A picture of one run: terms and leaders, what befell whom, and how far each ledger was.

One row a node: its bar is lit while it runs, darker where it leads; the shade changes with the
term. Faults stand above, as long as they lasted; below, the ratified index of every node.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from simnet.picture import FAINT, IDLE, STYLE, TROUBLE
from simnet.virtual.case import Outcome
from simnet.virtual.node import Node
from simnet.virtual.plan import Episode, without
from simnet.virtual.town import Town

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TERMS = ("#a9d6cf", "#7fc4bd")
"""Two shades in turn, so that a new term is seen."""
LEADS = "#22577a"
FAULT = "#c9b6d3"
SYMBOLS = {  # kind of line in the story -> (symbol, colour, words)
    "crash": ("X", TROUBLE, "crashes"),
    "start": ("^", "#3a7d44", "starts again"),
    "guilt": ("P", "#8f6d92", "proves a lie"),
}
LANES = 8
"""Faults that are drawn at one moment, one above the other."""
CYCLE = tuple(f"C{number}" for number in range(10))


class Sample(NamedTuple):
    """What a node was from a moment on."""

    at: float
    up: bool
    term: int
    leads: bool
    height: int


class Recorder:
    """Watches a town while it runs."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.samples: list[list[Sample]] = [[] for _ in town.world.nodes]
        town.world.after_event.append(self._look)
        town.world.on_crash.append(self._down)

    def _look(self, node: Node) -> None:
        if node.program is None:
            return
        daemon = self.town.daemon(node)
        daemon = getattr(daemon, "daemon", daemon)  # a liar's
        replica = getattr(daemon, "replica", None)
        term = 0 if replica is None else replica.term
        leads = replica is not None and replica.leading
        self._add(node, Sample(self.town.world.now, True, term, leads, daemon.head.index))

    def _down(self, node: Node) -> None:
        samples = self.samples[node.number]
        index = samples[-1].height if samples else 0
        self._add(node, Sample(self.town.world.now, False, 0, False, index))

    def _add(self, node: Node, sample: Sample) -> None:
        samples = self.samples[node.number]
        if not samples or samples[-1][1:] != sample[1:]:
            samples.append(sample)


def draw(recorder: Recorder, outcome: Outcome, path: Path) -> None:
    """Write the picture; the file's ending says PNG or SVG."""
    nodes = recorder.town.world.nodes
    height = 4.6 + 0.34 * len(nodes)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, height))
        rows = 0.34 * len(nodes)
        axes = figure.add_axes((0.085, 2.35 / height, 0.88, rows / height))
        above = figure.add_axes((0.085, (2.4 + rows) / height, 0.88, 1.1 / height), sharex=axes)
        lower = figure.add_axes((0.085, 0.95 / height, 0.88, 1.3 / height), sharex=axes)
        _rows(axes, recorder, outcome)
        _faults(above, recorder.town, outcome)
        _growth(lower, recorder, outcome)
        for panel in (axes, above, lower):
            panel.tick_params(length=0)
            for side in panel.spines.values():
                side.set_visible(False)
        _headline(figure, recorder.town, outcome, height)
        _legend(figure, recorder)
        figure.savefig(path, dpi=150, facecolor="white")


def _rows(axes: "Axes", recorder: Recorder, outcome: Outcome) -> None:
    town = recorder.town
    nodes = town.world.nodes
    for number, samples in enumerate(recorder.samples):
        ends = [sample.at for sample in samples[1:]] + [outcome.at]
        for sample, until in zip(samples, ends, strict=True):
            if not sample.up:
                continue
            colour = IDLE if not sample.term else TERMS[sample.term % 2]
            width = 0.62 if sample.leads else 0.34
            axes.barh(
                number, until - sample.at, left=sample.at, height=width,
                color=LEADS if sample.leads else colour, linewidth=0,
            )  # fmt: skip
    for line in town.world.story:
        if line.kind in SYMBOLS and line.node is not None:
            symbol, colour, _ = SYMBOLS[line.kind]
            axes.plot(
                line.at, line.node, marker=symbol, ms=7, color=colour, mec="white", mew=0.8,
                clip_on=False, zorder=5,
            )  # fmt: skip
        elif line.kind in ("epoch", "heal", "violation"):
            axes.axvline(line.at, color=TROUBLE if line.kind == "violation" else FAINT, lw=1)
    axes.set(ylim=(len(nodes) - 0.4, -0.6), xlim=(0, outcome.at))
    axes.set_yticks(range(len(nodes)), [_label(town, node) for node in nodes])
    axes.tick_params(labelbottom=False)


def _label(town: Town, node: Node) -> str:
    whose = town.roles.twins.get(node.number, node.number)
    kind = town.roles.liars.get(whose)
    return node.name if kind is None else f"{node.name} ({kind.rstrip('s')})"


def _faults(axes: "Axes", town: Town, outcome: Outcome) -> None:
    lanes: list[float] = []
    shown = [e for e in without(town.plan, town.case.without) if e.at < outcome.at]
    for episode in shown:
        lane = next((n for n, until in enumerate(lanes) if until <= episode.at), len(lanes))
        if lane >= LANES:
            continue
        # A word needs some room, however short the fault was.
        end = max(episode.until, episode.at + outcome.at / 11)
        lanes[lane : lane + 1] = [end]
        axes.barh(lane, episode.until - episode.at, left=episode.at, height=0.8, color=FAULT, lw=0)
        axes.text(episode.at, lane, " " + _words(episode, town), va="center", fontsize=6.5)
    axes.set(ylim=(-0.6, max(len(lanes), 3) - 0.4))
    axes.set_yticks([])
    axes.tick_params(labelbottom=False)


def _words(episode: Episode, town: Town) -> str:
    names = [town.world.nodes[number].name for number in episode.who]
    return f"{episode.kind} {' '.join(names)}" if len(names) < 3 else episode.kind


def _growth(axes: "Axes", recorder: Recorder, outcome: Outcome) -> None:
    for number, samples in enumerate(recorder.samples):
        if samples:
            moments = [sample.at for sample in samples] + [outcome.at]
            heights = [sample.height for sample in samples] + [samples[-1].height]
            axes.step(moments, heights, where="post", lw=1.2, color=CYCLE[number % len(CYCLE)])
    axes.set(xlabel="virtual seconds", ylabel="ratified index", ylim=(0, None))
    axes.grid(axis="y", color=IDLE)
    axes.set_axisbelow(True)


def _headline(figure: Figure, town: Town, outcome: Outcome, height: float) -> None:
    family = town.case.family
    figure.text(0.085, 1 - 0.36 / height, family.title, fontsize=13, fontweight="bold")
    parts = [
        f"{family.name}, seed {outcome.seed}",
        f"{outcome.members} members",
        f"{outcome.ratified} entries ratified in {outcome.terms} terms",
    ]
    if outcome.healed is not None:
        parts.append(f"healed after {outcome.healed:.1f} time-outs")
    if outcome.failed:
        parts = [*parts[:2], f"VIOLATION {outcome.check}: {outcome.text[:90]}"]
    colour = TROUBLE if outcome.failed else FAINT
    figure.text(0.085, 1 - 0.62 / height, "  ·  ".join(parts), fontsize=9.5, color=colour)


def _legend(figure: Figure, recorder: Recorder) -> None:
    handles: list[Patch | Line2D] = [
        Patch(color=LEADS, label="leads"),
        Patch(color=TERMS[0], label="has a seat (shades: terms in turn)"),
        Patch(color=IDLE, label="follows"),
        Patch(color=FAULT, label="a fault, while it lasts"),
    ]
    handles.append(Line2D([], [], color=FAINT, lw=1, label="an epoch begins; healing"))
    told = {line.kind for line in recorder.town.world.story}
    for kind, (symbol, colour, words) in SYMBOLS.items():
        if kind in told:
            handles.append(
                Line2D([], [], marker=symbol, color=colour, mec="white", ls="", label=words)
            )
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8,
        handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip
