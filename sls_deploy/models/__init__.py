"""Networks: how they are built, recognised, loaded and saved."""
