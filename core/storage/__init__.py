"""Files: memory maps, atomic writes, downloads."""
