"""Training logs: where they lie, how each kind of file is read on from where it was left, and what was found."""
