"""The verb over HTTP: open images, batched questions, limits, and an endpoint that OpenAI's clients speak to."""
