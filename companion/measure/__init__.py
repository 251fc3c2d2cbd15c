"""Measuring: time in turns, the machine, the peak of memory, the roofline."""
