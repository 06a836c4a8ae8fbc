"""The units of a site under systemd, as package data; `phalanx systemd` writes them with this installation's paths."""
