"""The embedded model's own world: what its videos show is known, not guessed."""
