"""Networks beside QuickNet: its rivals and its teachers, one file each."""
