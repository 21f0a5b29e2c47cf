"""Music and text in one space: two towers, trained so that what belongs together lies together."""
