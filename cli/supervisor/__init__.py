"""The supervisor of `phalanx up`: starts the processes of a site, restarts and reaps them, ends them all."""
