"""What a developer runs on their machine. Nothing of it is needed in production."""
