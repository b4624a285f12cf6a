"""Exported graphs: the checks of the file, and the runtimes that answer."""
