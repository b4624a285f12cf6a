"""FORMAT.md in Python: the container, the integer network, and its slow definition."""
