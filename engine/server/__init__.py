"""The engine over HTTP: OpenAI's protocol in, requests to the core out. It knows no torch."""
