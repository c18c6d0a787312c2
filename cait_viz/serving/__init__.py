"""What the web app's server holds: its models, its worker processes, its results."""
