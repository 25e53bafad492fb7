"""What is measured before a decision."""
