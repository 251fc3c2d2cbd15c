"""Parts of the training recipe."""
