"""What a run achieved, as one page that opens anywhere. Reads records only."""
