"""Reading a scenario file; every mistake names its step and its key."""

import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec

from protocols.errors import SynapseError
from simnet.councilparts import Above, Founding, Height, Leader, Propose, Vote
from simnet.learnparts import Checkpoint, MakeModel, Primary, Train
from simnet.learnregionparts import Office
from simnet.scenario import Check, Choice, Lie, Part, Pick, Scenario, Steps
from simnet.upgradeparts import Became, Stage, Upgrade

CHOOSING = (
    *("who", "by", "but", "out_of", "liars", "asked"),
    *("senders", "receivers", "groups", "members", "out", "regions"),
)
"""Fields that choose daemons."""


NEED_COUNCIL = (Founding.__module__, Upgrade.__module__, Train.__module__)
"""Where steps and checks stand that say nothing without a ledger."""


class ScenarioError(SynapseError):
    """A scenario that cannot be run as it is written; the message names the key."""

    code = "bad-scenario"


def load(path: Path) -> Scenario:
    """The scenario in a file. Raises ScenarioError that names the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"cannot read {path}: {error}") from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not TOML: {error}") from error
    try:
        scenario = msgspec.convert(document, Scenario)
    except msgspec.ValidationError as error:
        raise ScenarioError(f"{path}: {_place(document, str(error))}") from error
    _check_names(path, scenario)
    return scenario


def _place(document: dict[str, Any], message: str) -> str:
    """msgspec's message, with the step or promise named as people count them."""
    what, _, where = message.partition(" - at `$")
    if not where:
        return f"{what}; a scenario has {', '.join(Scenario.__struct_fields__)}"
    where = where.rstrip("`").lstrip(".")
    head, _, rest = where.partition("]")
    table, _, number = head.partition("[")
    if table in ("steps", "promises") and number.isdigit():
        part = document[table][int(number)]
        named = part.get("do", "") if isinstance(part, dict) else ""
        where = f"{table[:-1]} {int(number) + 1}{f' ({named})' if named else ''}{rest}"
        if "Invalid value" in what and isinstance(part, dict):
            what += f"; a step's do is one of {', '.join(tags(Steps))}"
    return f"{where}: {what}"


def tags(union: Any) -> list[str]:
    """The tags of a union's structs."""
    return [str(kind.__struct_config__.tag) for kind in get_args(union)]


def _check_names(path: Path, scenario: Scenario) -> None:
    """Every model and every picked name stands somewhere before it is used."""
    for name, source in scenario.models.items():
        if sum(map(bool, (source.package, source.folder, source.made))) != 1:
            raise ScenarioError(f"{path}: models.{name}: exactly one of package, folder and made")
    known = _Known({"all", "running"}, set(), set(), set())
    if scenario.council is not None:
        _check_part(f"{path}: council", scenario.council, scenario, known)
    for number, step in enumerate(scenario.steps, 1):
        where = f"{path}: step {number} ({step.__struct_config__.tag})"
        _check_part(where, step, scenario, known)
        if isinstance(step, Pick | Lie | Leader):
            known.daemons.add(step.name)
        elif isinstance(step, Height):
            known.heights.add(step.name)
        elif isinstance(step, MakeModel):
            known.lineages.add(step.name)
        elif isinstance(step, Primary | Office):
            known.daemons.add(step.name)
        elif isinstance(step, Propose | Upgrade | Train | Checkpoint):
            known.proposals.add(step.name)
    for number, promise in enumerate(scenario.promises, 1):
        _check_part(f"{path}: promise {number}", promise.that, scenario, known)


class _Known(msgspec.Struct):
    """Names that earlier steps have given."""

    daemons: set[str]
    heights: set[str]
    proposals: set[str]
    lineages: set[str]


def _check_part(where: str, part: Part, scenario: Scenario, known: _Known) -> None:
    of_council = part.__class__.__module__ in NEED_COUNCIL
    if of_council and scenario.council is None:
        raise ScenarioError(f"{where}: there is no [council] in this scenario")
    if isinstance(part, Above) and part.height not in known.heights:
        raise ScenarioError(f"{where}: height: no earlier step has named {part.height!r}")
    if isinstance(part, Vote) and part.proposal not in known.proposals:
        raise ScenarioError(f"{where}: proposal: no earlier step has named {part.proposal!r}")
    if isinstance(part, Became | Stage) and part.upgrade not in known.proposals:
        raise ScenarioError(f"{where}: upgrade: no earlier step has named {part.upgrade!r}")
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if name == "lineage" and value not in known.lineages:
            raise ScenarioError(f"{where}: lineage: no earlier step has made {value!r}")
        if isinstance(value, Check):
            _check_part(f"{where}: {name}", value, scenario, known)
        elif name in ("model", "holding") and value and value not in scenario.models:
            raise ScenarioError(f"{where}: {name}: there is no [models.{value}]")
        elif name in CHOOSING:
            for choice in _choices(value):
                _check_choice(f"{where}: {name}", choice, scenario.daemons, known.daemons)


def _choices(value: Any) -> list[Choice]:
    if isinstance(value, list):
        return [choice for part in value for choice in _choices(part)]
    return [value]


def _check_choice(where: str, choice: Choice, daemons: int, known: set[str]) -> None:
    numbers = span(choice)
    if numbers is None and choice not in known:
        raise ScenarioError(
            f"{where}: {choice!r} names no daemon",
            remedy=f'a number, "0-{daemons - 1}", or one of {", ".join(sorted(known))}',
        )
    if numbers is not None and not (numbers and numbers[0] >= 0 and numbers[-1] < daemons):
        raise ScenarioError(f"{where}: {choice!r} is outside the {daemons} daemons from 0")


def span(choice: Choice) -> range | None:
    """The numbers that 3 or "0-4" names; None where it is a name."""
    if isinstance(choice, int):
        return range(choice, choice + 1)
    first, dash, last = choice.partition("-")
    if first.isdigit() and (last.isdigit() if dash else True):
        return range(int(first), int(last or first) + 1)
    return None
