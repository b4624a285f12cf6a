"""The section CODE: the numbers of TENS, entropy-coded. FORMAT.md, "`CODE`"."""
