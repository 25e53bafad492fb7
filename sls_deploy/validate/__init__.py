"""Validation: what each stage of the flow does to the pictures."""
