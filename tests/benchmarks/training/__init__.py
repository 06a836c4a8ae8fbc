"""One training under everything that breaks, for as long as one likes: it must end with the undisturbed run's weights."""
