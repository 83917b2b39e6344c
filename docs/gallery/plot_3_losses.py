"""
# Fenchel-Young losses as functions of the margin

Two classes, the first one right: the loss as a function of the margin, the lead of the right class.

The scores are $(s, 0)$, and the margin is $s$. Cross-entropy (alpha = 1) is positive everywhere. For alpha > 1 the loss
is exactly zero as soon as $s \\ge 1/(\\alpha - 1)$, and so is its gradient.
"""

# %%
import matplotlib.pyplot as plt
import torch

import tsallis as ts

s = torch.linspace(-3, 4, 701)
z = torch.stack([s, torch.zeros_like(s)], dim=-1)
right_class = torch.zeros(len(s), dtype=torch.long)

fig, ax = plt.subplots(figsize=(6, 3.6))
for alpha in (1.0, 1.5, 2.0):
    loss = ts.fenchel_young_loss("entmax", z, right_class, alpha=alpha, reduction="none")
    ax.plot(s, loss, label=f"entmax, alpha = {alpha:g}")
ax.plot(s, ts.fenchel_young_loss("normmax", z, right_class, reduction="none"), "--", label="normmax, alpha = 2")
ax.set(xlabel="margin s", ylabel="loss", title="Fenchel-Young losses, two classes")
ax.legend()
fig.tight_layout()

# %%
# The gradient with respect to the scores is p - t: it vanishes where the prediction is right beyond doubt.

scores = torch.tensor([[1.2, 0.0]], requires_grad=True)
ts.sparsemax_loss(scores, torch.tensor([0])).backward()
print(scores.grad)
