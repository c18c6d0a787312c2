"""How often a model is right, and what its maps are worth."""
