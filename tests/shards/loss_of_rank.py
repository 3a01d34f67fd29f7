"""One rank of two: python loss_of_rank.py RANK STORE. Reads STORE.RANK.in.pt, writes STORE.RANK.out.pt."""

import sys

import torch

from shards import weighted_bce

rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
logits, target, weight = torch.load(f"{store}.{rank}.in.pt")
logits.requires_grad_()
loss = weighted_bce(logits, target, weight)
loss.backward()
torch.save((loss.detach(), logits.grad), f"{store}.{rank}.out.pt")
torch.distributed.destroy_process_group()
