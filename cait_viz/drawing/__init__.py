"""Maps and figures, and the files that keep them."""
