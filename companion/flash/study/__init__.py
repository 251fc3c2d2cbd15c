"""What mainly the chapter calls: costs, counted accesses, figures."""
