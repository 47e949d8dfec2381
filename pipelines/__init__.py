"""The main job in running order: ingest, train, generate, verify; and demo, which runs them all."""
