"""Metric families from plain values: all are named `synapsed_...`."""

from collections.abc import Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Values = Mapping[Any, float]
"""By the tuple of the labels' values; mypy's tuples of a length are no keys of any length."""


def counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    """Something that only rises; its name gets `_total`."""
    family = CounterMetricFamily(f"synapsed_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauges(name: str, text: str, labels: tuple[str, ...], values: Values) -> Metric:
    """Something that rises and falls, by labels."""
    family = GaugeMetricFamily(f"synapsed_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(name: str, text: str, value: float) -> Metric:
    """One without labels."""
    return gauges(name, text, (), {(): value})


def single(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Values by one label."""
    return {(name,): value for name, value in values.items()}
