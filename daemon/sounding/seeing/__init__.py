"""Seeing: what lies in a store, whether it is whole, and what it tells of itself."""
