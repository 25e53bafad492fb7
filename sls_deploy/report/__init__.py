"""The report of a run: everything that was found out, as JSON and as one page."""
