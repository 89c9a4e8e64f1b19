"""Development tools. None of them is needed in production."""
