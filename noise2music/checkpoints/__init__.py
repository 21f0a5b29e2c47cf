"""Checkpoints that are checked: see `manager` for training, `restore` for everyone else."""

from noise2music.checkpoints.restore import is_checkpoint, restore_params

__all__ = ["is_checkpoint", "restore_params"]
