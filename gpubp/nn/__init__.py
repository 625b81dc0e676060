"""The mathematics: networks, their losses and optimisers. No files but the model file, and no terminal."""
