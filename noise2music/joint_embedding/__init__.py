"""Music and text in one space: what belongs together lies together."""
