"""A training's plan in words, for people."""

from itertools import groupby

from protocols.plan import MILLION, Phase, Plan


def phases_in_words(plan: Plan) -> str:
    """As "4 steps a round, ternary; from round 225 15 steps, ternary"; phases that differ only in
    their learning rate count as one."""
    parts, start = [], 0
    for (steps, codecs), several in groupby(plan.phases, key=_kind):
        begins = f"from round {start} {steps} steps" if start else _steps(steps)
        parts.append(f"{begins}, {codecs}")
        start += sum(phase.rounds for phase in several)
    return "; ".join(parts)


def plan_in_words(plan: Plan) -> str:
    """All that a learner would ask."""
    return (
        f"{phases_in_words(plan)}; {plan.batch} x {plan.context} tokens a step, "
        f"rate {plan.rate / MILLION:g}; a round waits for {plan.learners} learners"
    )


def _kind(phase: Phase) -> tuple[int, str]:
    both = phase.up if phase.up == phase.down else f"{phase.up} up, {phase.down} down"
    return phase.steps, both


def _steps(steps: int) -> str:
    return "a gradient a round" if steps == 1 else f"{steps} steps a round"
