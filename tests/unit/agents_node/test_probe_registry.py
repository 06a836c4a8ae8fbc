"""Which probes there are, and which a machine needs."""

from __future__ import annotations

import pytest

from agents.node.__main__ import parse_config
from agents.node.probes.machine import Output
from agents.node.probes.vendors import HOST, TOOLS, load, present
from controlplane.catalogues import built_in
from tests.fixtures.recorded_machine import RecordedMachine, recorded_machine, recorded_names

FROM_MISSION = {
    "amd", "ascend", "cambricon", "enflame", "hygon", "kunlunxin", "metax", "mthreads", "nvidia", "thead", HOST,
}  # fmt: skip


@pytest.mark.parametrize("vendor", sorted(TOOLS))
def test_every_probe_is_whole(vendor: str) -> None:
    probe = load(vendor)
    assert vendor == probe.VENDOR
    assert probe.PROVEN == "constructed" or probe.PROVEN.startswith("https://")
    assert any(owner == vendor for owner, _ in built_in().rules), "it has a fault table"
    sources = {recorded_machine(vendor, name).source for _, name in recorded_names(vendor)}
    assert sources, "it has recorded machines"
    assert (probe.PROVEN == "constructed") == (sources == {"constructed"}), "it is called proven for a reason"


def test_all_vendors_of_the_mission_are_there() -> None:
    assert set(TOOLS) == FROM_MISSION
    with pytest.raises(ValueError, match="choose among"):
        load("pear")


@pytest.mark.parametrize(("vendor", "name"), recorded_names())
def test_a_machine_needs_the_probe_of_what_is_in_it(vendor: str, name: str) -> None:
    machine = recorded_machine(vendor, name)
    assert vendor in present(machine)
    assert present(machine.without_pci()) == present(machine) or vendor == "kunlunxin" or not machine.commands


def test_a_machine_with_nothing_has_itself_and_names_shared_with_others_show_nothing() -> None:
    assert present(RecordedMachine("empty", "constructed", {})) == (HOST,)
    intel = RecordedMachine("intel", "constructed", {("xpu-smi",): Output(0, "Intel XPU-SMI", "")})
    assert present(intel) == (HOST,)


def test_a_management_controller_is_no_accelerator() -> None:
    documented = recorded_machine("ascend", "documented")
    only_display = documented.without_pci("0000:61:00.0").without_tool("npu-smi")
    assert "ascend" not in present(RecordedMachine("kunpeng", "constructed", {}, only_display.devices))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {HOST}),
        (("--simulated-accelerators", "0"), set()),
        (("--simulated-accelerators", "2", "--probe", "nvidia"), {"nvidia"}),
        (("--probe", "none"), set()),
        (("--probe", "ascend", "--probe", "host"), {"ascend", HOST}),
    ],
)
def test_what_the_command_line_asks_for(options: tuple[str, ...], expected: set[str]) -> None:
    given = ("--controller", "127.0.0.1:1", "--node", "n", "--dir", "/d", "--socket", "/s", "--plaintext", *options)
    found = set(parse_config(given).vendors)
    assert expected <= found if not options else expected == found
