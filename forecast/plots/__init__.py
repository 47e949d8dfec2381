"""Pictures of forecast stores: maps, stamps, spaghetti, meteograms, animations."""
