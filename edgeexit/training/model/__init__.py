"""Looking into a user's model: how it is called, what its modules compute, what is alive behind each."""
