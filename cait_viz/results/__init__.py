"""What came out of one image: numbers that draw, save and compare themselves."""
