"""What of sls-deploy works on this machine, found out by trying, and what would mend the rest."""
