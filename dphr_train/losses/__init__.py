"""One loss, one paper, one file. Those on embeddings fit into any training loop.

loss = DphrLoss(window=50)
total = loss(queries, references, place_ids)   # float (B, D) of unit length, twice; int64 (B,)
loss.terms                                     # what the log may show, detached
"""

from dphr_train.losses.dphr import DphrLoss
from dphr_train.losses.infonce import InfoNce
from dphr_train.losses.triplet import TripletLoss

__all__ = ["DphrLoss", "InfoNce", "TripletLoss"]
