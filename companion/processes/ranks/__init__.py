"""What ``launch`` consists of: a rank's process, its parent's watch, and how failures travel."""
