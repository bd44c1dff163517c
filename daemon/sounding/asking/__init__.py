"""Asking: queries, explanations and checks, for people and notebooks."""
