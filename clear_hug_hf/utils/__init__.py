"""What every room may use: the lowest one, which imports nothing but the standard library and the package's error."""
