"""The command line of sounding."""
