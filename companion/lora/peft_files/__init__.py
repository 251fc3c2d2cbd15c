"""An adapter's folder, as PEFT writes and reads it."""
