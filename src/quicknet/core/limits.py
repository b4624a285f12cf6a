"""The largest and smallest of what networks and images may be."""

MIN_IMAGE_SIZE = 16  # pixels
MAX_IMAGE_SIZE = 1024
MAX_WEIGHTS = 1 << 28  # 1 GiB of float32, 75 times the paper's network
