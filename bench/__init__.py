"""How fast the service is, beside two others that do the same work; see RESULTS.md."""
