"""The commands that `edgeexit` finds on a device."""
