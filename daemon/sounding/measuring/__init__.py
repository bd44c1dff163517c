"""Measuring: plugins over shared passes; the only place where foreign code is called."""
