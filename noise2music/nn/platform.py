"""What a program is traced for, where layers choose between forms of the same mathematics."""

import jax


def platform() -> str:
  """ "cpu", "tpu" or other: that of the mesh in force, which may be of devices that are not here;
  else jax's default."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.platform if device is not None else jax.default_backend()
