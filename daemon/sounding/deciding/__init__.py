"""Deciding: what is owed and what comes next; pure functions of records."""
