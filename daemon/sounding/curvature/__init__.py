"""Curvature of the loss: products of its second-order matrices with vectors, and what is found through them alone."""
