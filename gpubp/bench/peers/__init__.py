"""Other libraries as contenders, one module each."""
