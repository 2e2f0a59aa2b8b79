"""What is owed after the end of a job: its webhook, and the removal of what is no longer wanted."""
