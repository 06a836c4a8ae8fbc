"""The screen of `phalanx top`: a map of the site, its jobs and its events, as they change."""
