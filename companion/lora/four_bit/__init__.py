"""A base in four bits: the code, and layers that hold it."""
