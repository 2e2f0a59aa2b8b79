"""The work after the end of a job: sending its webhook, and deleting files that are no longer needed."""
