"""As much of pycuda as is used, on the fake device."""
