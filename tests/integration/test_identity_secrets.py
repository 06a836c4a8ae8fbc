"""No secret where everybody can read it: arguments, environments, logs and the journal of a running controller and agent."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.fixtures.controller_process import until
from tests.fixtures.secure_site import NodeAgent, SecureController


def secrets_below(folder: Path) -> dict[str, bytes]:
    """A piece of every key below a folder that could not be there by chance."""
    keys = [path for path in folder.rglob("*") if path.suffix == ".key" and path.is_file()]
    return {str(path): path.read_bytes().replace(b"\n", b"")[-80:-40] for path in keys}


def test_keys_and_tokens_are_only_in_their_files(tmp_path: Path) -> None:
    (tmp_path / "controller").mkdir()
    controller = SecureController(tmp_path / "controller").start()
    join_file = controller.join_file(tmp_path / "node" / "join.json", "node", "node-1")
    token = controller.token("node", "node-2").token
    used = join_file.read_text().split('"token": "')[1].split('"')[0]
    agent = NodeAgent(controller, tmp_path / "node", "node-1")
    try:
        controller.until_session("node-1")
        until(lambda: agent.logged("identity.joined"), "the agent tells that it joined")
        searched = secrets_below(tmp_path) | {"the used token": used.encode(), "an open token": token.encode()}
        assert len(searched) >= 5, searched.keys()
        assert controller.process is not None
        places = [
            Path(f"/proc/{one.pid}/{name}")
            for one in (controller.process, agent.process)
            for name in ("cmdline", "environ")
        ]
        places += [controller.log, agent.log, *(controller.folder / "journal").iterdir()]
        for place in places:
            text = place.read_bytes()
            assert not [name for name, secret in searched.items() if secret in text], place
    finally:
        agent.close()
        controller.close()


def test_a_controller_refuses_an_authority_that_others_can_read(tmp_path: Path) -> None:
    controller = SecureController(tmp_path)
    (controller.pki / "ca.key").chmod(0o644)
    done = subprocess.run(controller.command(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "chmod 600" in done.stderr
    assert "PRIVATE KEY" not in done.stderr
