"""The commands that this package adds to `edgeexit`: they parse, call one function, and print."""
