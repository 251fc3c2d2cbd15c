"""What a collective costs: closed forms, simulation, and the fit of a network to times."""
