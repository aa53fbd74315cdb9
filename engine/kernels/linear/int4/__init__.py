"""Products with weights of 4 bits (`engine.model.int4_weight`)."""
