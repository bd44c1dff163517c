"""Shared computations that plugins name as their needs."""
