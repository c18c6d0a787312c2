"""Finding, downloading, checking and reading weights; no Keras."""
