"""OpenAI's chat completions as a client speaks them, with nothing sent: requests, answers, errors, events."""
