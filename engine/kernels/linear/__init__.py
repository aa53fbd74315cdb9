"""Matrix products: one token, few tokens, many tokens; quantized weights; experts."""
