"""One thread for all tests: small tensors gain nothing from more, and on a busy machine threads wait for each other."""

import torch

torch.set_num_threads(1)
