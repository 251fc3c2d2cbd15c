"""What mainly the chapter calls: a simulated machine, the runs without repairs, figures."""
