"""Checkpoint formats: one module each, none of which imports torch."""
