"""Work on folders of images."""
