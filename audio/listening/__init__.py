"""Listening page: clips with players and pictures in one HTML file."""
