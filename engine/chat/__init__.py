"""A dialog to the prompt that a model was trained with: by the model's own template, or by a format known here."""
