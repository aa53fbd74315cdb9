"""The comparison with Meta's package runs only where that package and a GPU are available."""

import torch

from tests.engine.llama.reference_package import package

collect_ignore = [] if package() is not None and torch.cuda.is_available() else ["test_reference.py"]
