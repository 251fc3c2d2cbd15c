"""What mainly the chapter calls: its figures, its explorables, several games at once."""
