"""What mainly the chapter calls: ring states, overlap, figures."""
