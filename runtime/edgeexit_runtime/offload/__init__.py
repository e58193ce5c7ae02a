"""Handing samples on: the client of the next tier, with everything that keeps an answer from waiting for it."""
