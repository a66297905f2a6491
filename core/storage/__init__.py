"""Files: atomic writes, locks, memory maps, downloads."""
