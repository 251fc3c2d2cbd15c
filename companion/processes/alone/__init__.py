"""Small programs that fork, each in an interpreter of its own."""
