"""Works that are one piece under several names; made by duplicates.py."""

# fmt: off
SAME_PIECE = {
}
