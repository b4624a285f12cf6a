"""Compressed networks: pruned in blocks while they train, quantized, their values chosen to code small."""
