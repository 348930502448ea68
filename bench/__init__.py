"""What nodespan costs, measured: one file per theme. Type: make bench."""
