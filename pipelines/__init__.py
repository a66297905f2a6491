"""What a user runs: one script a job."""
