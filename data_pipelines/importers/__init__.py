"""Layouts of music collections and how each becomes clips of the manifest."""
