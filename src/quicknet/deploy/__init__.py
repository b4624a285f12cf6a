"""From a run folder to one file that runs without torch: fold, build, verify."""
