"""Video files: every frame as a picture, and all that stands beside them kept."""
