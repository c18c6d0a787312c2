"""Images in, attention out: the compiled forward pass."""
