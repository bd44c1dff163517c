"""Geometry of representations: moments by class, neural collapse, ranks. Pure mathematics over tensors, no I/O."""
