"""
# The family between softmax and argmax

With two classes, a mapping is a curve: the probability of the first class as a function of its score.

The scores are $(s, 0)$. Softmax approaches 0 and 1 without reaching them. For alpha > 1 the curve reaches them at
$|s| = 1/(\\alpha - 1)$ and stays there.
"""

# %%
import matplotlib.pyplot as plt
import torch

import tsallis as ts

s = torch.linspace(-3, 3, 601)
z = torch.stack([s, torch.zeros_like(s)], dim=-1)

fig, ax = plt.subplots(figsize=(6, 3.6))
for alpha in (1.0, 1.25, 1.5, 2.0, 4.0):
    ax.plot(s, ts.entmax(z, alpha=alpha)[:, 0], label=f"alpha = {alpha:g}")
ax.set(xlabel="s", ylabel="p of the first class", title="entmax of (s, 0)")
ax.legend()
fig.tight_layout()

# %%
# The edges are where the theory says: at alpha = 1.5 the second class vanishes at s = 2.

edge = torch.tensor([[1.99, 0.0], [2.0, 0.0]])
print(ts.entmax(edge, alpha=1.5))
