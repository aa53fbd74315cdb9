"""OpenAI's protocol: the bodies of requests, responses and errors. It knows no HTTP and no model."""
