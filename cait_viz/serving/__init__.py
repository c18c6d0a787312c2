"""What the web app's server holds: its models, its engines, its results."""
