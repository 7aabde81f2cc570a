"""Which changes are possible, how risky they are, and why."""

from collections.abc import Iterable, Mapping

from protocols.changes import (
    AdoptionChange,
    Change,
    CheckpointChange,
    ExclusionChange,
    HumanKeyChange,
    ParameterChange,
    TrainingChange,
    UpgradeChange,
)
from protocols.ledger.entries import MAX_HUMANS
from protocols.ledger.errors import (
    FullError,
    NoChangeError,
    NotAHumanKeyError,
    ProtectedError,
)
from protocols.ledger.params import REGISTRY, check_together, check_value, fit_together, risk_of
from protocols.risk import ADOPTED, REPLACEABLE, TRAINED, Risk, protected


def check_change(
    change: Change | None, params: Mapping[str, int], humans: Mapping[str, bytes]
) -> Risk:
    """The risk class of a change that could be made.

    Raises UnknownParameterError, OutOfRangeError, NoChangeError, NotAHumanKeyError,
    ProtectedError.
    """
    if change is None:
        return Risk.LOW
    if isinstance(change, ParameterChange):
        for setting in change.settings:
            check_value(setting.name, setting.value)
            if params[setting.name] == setting.value:
                raise NoChangeError(f"{setting.name} is {setting.value} already")
        check_together(after(params, change))
        return risk_of(setting.name for setting in change.settings)
    if isinstance(change, HumanKeyChange):
        _check_human_key(change, humans)
        return Risk.CRITICAL
    if isinstance(change, AdoptionChange):
        return ADOPTED[change.what]
    if isinstance(change, TrainingChange | CheckpointChange | ExclusionChange):
        return TRAINED
    return _check_upgrade(change)


def _check_human_key(change: HumanKeyChange, humans: Mapping[str, bytes]) -> None:
    if change.action == "remove":
        if humans.get(change.name) != change.key:
            raise NotAHumanKeyError(f"there is no human key {change.name!r} like this")
        return
    if change.name in humans or change.key in humans.values():
        raise NoChangeError(f"the name or the key of {change.name!r} is there already")
    if len(humans) >= MAX_HUMANS:
        raise FullError(f"there are {MAX_HUMANS} human keys, which is the most")


def _check_upgrade(change: UpgradeChange) -> Risk:
    if protected(change.slot):
        raise ProtectedError(
            f"{change.slot} is not among the components that a vote may replace: "
            "consensus, identity, cryptography and the council never are",
            remedy=f"these are: {', '.join(sorted(REPLACEABLE))}; the rest comes with releases",
        )
    return REPLACEABLE[change.slot]


def after(params: Mapping[str, int], change: Change) -> Mapping[str, int]:
    """The parameters when `change` is in force."""
    if not isinstance(change, ParameterChange):
        return params
    return {**params, **{setting.name: setting.value for setting in change.settings}}


def fit_in_turn(params: Mapping[str, int], changes: Iterable[Change]) -> bool:
    """Whether parameters fit together after each of some changes, made one after the other."""
    for change in changes:
        params = after(params, change)
        if not fit_together(params):
            return False
    return True


def effective(change: Change, params: Mapping[str, int], humans: Mapping[str, bytes]) -> bool:
    """Whether a change that was accepted earlier would still change something."""
    if isinstance(change, ParameterChange):
        return after(params, change) != params
    if isinstance(change, HumanKeyChange):
        if change.action == "remove":
            return humans.get(change.name) == change.key
        known = change.name in humans or change.key in humans.values()
        return not known and len(humans) < MAX_HUMANS
    return False


def why(change: Change | None) -> str:
    """For people: what makes the change as risky as it is."""
    if change is None:
        return "it changes nothing that software acts upon"
    if isinstance(change, ParameterChange):
        riskiest = max(change.settings, key=lambda each: REGISTRY[each.name].risk)
        return f"{riskiest.name} is of class {REGISTRY[riskiest.name].risk.word}"
    if isinstance(change, HumanKeyChange):
        return "human keys approve what is high or critical"
    if isinstance(change, AdoptionChange):
        return f"adopting a manifest of kind {change.what} is of class {ADOPTED[change.what].word}"
    if isinstance(change, TrainingChange | CheckpointChange | ExclusionChange):
        return _why_of_training(change)
    return f"replacing {change.slot} is of class {REPLACEABLE[change.slot].word}"


def _why_of_training(change: TrainingChange | CheckpointChange | ExclusionChange) -> str:
    if isinstance(change, ExclusionChange):
        return "nobody votes on it: members recompute the case, and their verdicts decide"
    what = str(change.__struct_config__.tag)
    return f"a model's {what} is of class {TRAINED.word}: members measure what comes of it"
