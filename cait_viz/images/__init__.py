"""Images in: files, bytes and arrays to upright 8-bit sRGB, and to the network's input."""
