"""The options that the paper's §7 hopes for, each a small file; the paper's network has none of them."""
