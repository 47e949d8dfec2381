"""Initial states of their own for the members: departures from the analysis, scaled to its error."""
