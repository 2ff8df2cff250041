"""Long video from short-clip models, on as many devices as there are."""
