"""Running: the daemon process, its children, and the turn that ties everything together."""
