"""What is done once, for the weights that ship: building the set of photographs that they learn from."""
