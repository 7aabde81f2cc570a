"""What a proposal of a training, a checkpoint or an exclusion would do, in words."""

from typing import Any

from protocols.errors import MalformedError
from protocols.ledger.trainings import EXCLUDED, LOST
from protocols.plan import MILLE, MILLION, Plan

MAX_SHARES = 16
"""Of a checkpoint that are shown one by one: those who learned most."""

Rows = list[tuple[str, str]]


def learning_rows(kind: str, change: dict[str, Any]) -> Rows | None:
    """Rows for `proposal show`; None for what is neither."""
    if kind == "training":
        return _training(change)
    if kind == "exclusion":
        return _exclusion(change)
    return _checkpoint(change) if kind == "checkpoint" else None


def _training(change: dict[str, Any]) -> Rows:
    from synapsed.cli.output import size  # noqa: PLC0415

    windows, margin = change["windows"], change["margin"] / MILLION
    return [
        ("model", change["model"]),
        ("plan", _plan(change["plan"])),
        ("groups", f"of {size(change['plan']['group_bytes'])} at most"),
        ("judged by", f"{windows} windows of {change['evaluation']}"),
        ("better by", f"{margin:g} nats a token at least, for a checkpoint to count"),
    ]


def _plan(said: dict[str, Any]) -> str:
    import msgspec  # noqa: PLC0415 - 5 ms, and not for --help

    from synapsed.training.planwords import plan_in_words  # noqa: PLC0415

    fields = [said.get(name) for name in Plan.__struct_fields__]
    fields[0] = [list(phase.values()) for phase in said["phases"]]
    try:
        return plan_in_words(msgspec.convert(fields, Plan))
    except (msgspec.ValidationError, MalformedError):  # of a later version
        return str(said)


def _exclusion(change: dict[str, Any]) -> Rows:
    return [
        ("accused", change["accused"]),
        ("of", f"what it signed in epoch {change['epoch']}, which members recompute"),
        ("it would", f"serve no tile group and no region for {EXCLUDED} epochs,"),
        ("", f"and lose {100 * LOST // MILLE} % of its reputation"),
        ("training", change["training"]),
        ("case", change["case"]),
        ("evidence", change["evidence"]),
    ]


def _checkpoint(change: dict[str, Any]) -> Rows:
    from synapsed.cli.output import short_peer  # noqa: PLC0415

    shares = sorted(change["shares"], key=lambda each: -each["permille"])
    rows = [(f"{100 * each['permille'] / MILLE:.1f} %", each["identity"]) for each in shares]
    learned = [("learned by", f"{short_peer(who)}, {part}") for part, who in rows[:MAX_SHARES]]
    if len(rows) > MAX_SHARES:
        learned.append(("learned by", f"and {len(rows) - MAX_SHARES} more"))
    return [
        ("training", change["training"]),
        ("parent", change["parent"]),
        ("checkpoint", change["manifest"]),
        ("rounds", change["evidence"]),
        *learned,
    ]
