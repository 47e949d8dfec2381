"""The words that every room shares: configuration, times, grids, seeds, stores. No torch in here."""
