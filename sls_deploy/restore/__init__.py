"""Restoring pictures and video through a run's networks."""
