"""What a histogram says in few numbers: how many, the mean, and quantiles as upper bounds of its buckets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Distribution:
    """Observations of one series. Bounds in the unit of the histogram, ascending, with the cumulated counts below them."""

    count: int
    mean: float
    bounds: tuple[tuple[float, int], ...]

    def quantile(self, share: float) -> float:
        """A bound that `share` of the observations do not exceed; infinite beyond the last bucket, NaN without any."""
        if not self.count:
            return math.nan
        return next((bound for bound, below in self.bounds if below >= share * self.count), math.inf)


def distributions(metrics: Iterable[Metric], label: str = "") -> Mapping[str, Distribution]:
    """The series of a histogram (what its `collect` gives) by the value of `label`; "" for one without labels."""
    counts: dict[str, int] = {}
    sums: dict[str, float] = {}
    bounds: dict[str, list[tuple[float, int]]] = {}
    for sample in (sample for metric in metrics for sample in metric.samples):
        series = sample.labels.get(label, "")
        if sample.name.endswith("_bucket"):
            bounds.setdefault(series, []).append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_count"):
            counts[series] = int(sample.value)
        elif sample.name.endswith("_sum"):
            sums[series] = sample.value
    return {
        series: Distribution(count, sums.get(series, 0.0) / count if count else 0.0, tuple(sorted(bounds[series])))
        for series, count in counts.items()
    }
