"""How heavy-tailed the weights are."""
