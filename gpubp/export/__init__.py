"""Models in the formats of other libraries, which need no gpubp to be used: `gpubp export`."""
