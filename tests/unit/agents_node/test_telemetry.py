"""The telemetry file: what a collector reads, and nothing old shown as new."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from agents.node.probes.reading import Device, Health, Metric, Reading
from agents.node.probes.wire import message_of
from agents.node.telemetry import Telemetry

ODD = 'a"b\\c\nd'


def reading(**metrics: Metric) -> Reading:
    return Reading("ascend", (Device(0, ODD, "0000:c1:00.0", "910B", Health.HEALTHY, metrics),))


def samples(telemetry: Telemetry) -> dict[str, tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(telemetry.text())
    return {sample.name: (sample.labels, sample.value) for family in families for sample in family.samples}


def test_values_units_and_what_a_device_does_not_have(tmp_path: Path) -> None:
    telemetry = Telemetry("node-1", tmp_path / "telemetry.prom")
    assert telemetry.text() == ""
    values = {"power_watts": Metric(93.5), "ecc_corrected_total": Metric(7), "link_up": Metric(None, supported=False)}
    telemetry.take(message_of(reading(**values, odd_name=Metric(1.0), **{"Bad name": Metric(1.0)}), 0), 1_700_000_000.0)
    found = samples(telemetry)
    labels, value = found["phalanx_accelerator_power_watts"]
    assert value == 93.5
    assert labels == {"node": "node-1", "vendor": "ascend", "accelerator": "0", "serial": ODD}
    assert found["phalanx_accelerator_unsupported"][0]["metric"] == "link_up"
    assert found["phalanx_probe_last_reading_timestamp_seconds"][1] == 1_700_000_000.0
    assert "phalanx_accelerator_odd_name" in found
    assert not any("Bad" in name for name in found)
    assert "# TYPE phalanx_accelerator_ecc_corrected_total counter" in telemetry.text()
    assert "# HELP phalanx_accelerator_power_watts W" in telemetry.text()


def test_values_of_a_probe_that_gives_nothing_are_gone(tmp_path: Path) -> None:
    telemetry = Telemetry("node-1", tmp_path / "telemetry.prom")
    telemetry.take(message_of(reading(power_watts=Metric(93.5)), 0), 5.0)
    telemetry.lost("ascend")
    found = samples(telemetry)
    assert found["phalanx_probe_up"][1] == 0.0
    assert found["phalanx_probe_last_reading_timestamp_seconds"][1] == 5.0
    assert "phalanx_accelerator_power_watts" not in found


def test_the_file_is_replaced_and_a_failure_is_told(tmp_path: Path) -> None:
    path = tmp_path / "telemetry.prom"
    telemetry = Telemetry("node-1", path)
    telemetry.take(message_of(reading(power_watts=Metric(1.0)), 0), 5.0)
    assert telemetry.write() == ""
    assert path.read_text() == telemetry.text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert "No such file" in Telemetry("n", tmp_path / "no" / "folder.prom").write()
