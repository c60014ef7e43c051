"""Bytes from strangers: fetched within the rules, verified whole; nothing is stored."""
