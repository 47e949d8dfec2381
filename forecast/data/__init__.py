"""From sources to the store, and from the store to batches on the device."""
