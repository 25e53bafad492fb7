"""Graph passes, one a file: each says what it requires and ensures."""
