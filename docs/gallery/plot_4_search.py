"""
# Everything a model can say

A search in a model with a sparse output can be complete: it finds every sequence that has probability, and proves it.

The model predicts a letter from the two before it, by a table of scores for each pair. It is trained on the days of the
week with the loss of 1.5-entmax.
"""

# %%
import torch

import tsallis as ts

days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
letters = "." + "".join(sorted(set("".join(days))))  # the first one ends a word, and begins it
size = len(letters)
windows = [f"..{day}."[i : i + 3] for day in days for i in range(len(day) + 1)]
numbers = torch.tensor([[letters.index(letter) for letter in window] for window in windows])
pairs, following = numbers[:, 0] * size + numbers[:, 1], numbers[:, 2]


def trained(alpha):
    torch.manual_seed(0)
    table = torch.nn.Embedding(size * size, size)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        ts.entmax_loss(table(pairs), following, alpha).backward()
        optimizer.step()
    return table


# %%
# A search wants a function of the last token and a state, here the token before it.


def search(alpha, beam):
    table = trained(alpha)

    def step(last, before):
        return ts.decoding.log_entmax(table(before * size + last), alpha), last

    start = torch.tensor([0])
    return ts.decoding.beam_search(step, start, start, eos=0, beam=beam, max_length=20)


found = search(1.5, beam=20)
figure = ts.decoding.plot_tree(ts.decoding.tree(found.hypotheses[0]), letters.__getitem__)

# %%
# These are all words that the model can say, and the certificate says so: their probabilities add up to 1. With softmax
# the same beam proves only which word is the most probable one. Others have probability beyond those found.

print(found.certificates[0], found.certificates[0].mass)
dense = search(1.0, beam=20)
print(dense.certificates[0], dense.certificates[0].mass)
