"""Configuration: gin files in, real objects out. See `gin_utils`."""
