"""What a run found, packed for machines that do not have sls-deploy."""
