"""Proper scores and other losses over members, as pure functions on tensors."""
