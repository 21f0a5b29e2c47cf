"""Captions for music that has none: the nearest sentences of large vocabularies (section 3.5)."""
