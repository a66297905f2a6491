"""Species classification: sets of species, their windows, their classifier."""
