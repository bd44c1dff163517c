"""Keeping: the results directory, its one table, and what the daemon knows from it."""
