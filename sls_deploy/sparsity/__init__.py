"""Pure N:M mathematics: units, ranks, masks and 2:4 legality."""
