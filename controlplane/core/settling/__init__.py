"""The next step of one job towards what it wants, by what it is doing."""
