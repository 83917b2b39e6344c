"""
# Learning how sparse to be

Alpha is an ordinary parameter. Here the scores are fixed and only alpha is learned, so that the result matches a
sparser target: gradient descent on the squared distance finds the alpha that produced it.
"""

# %%
import matplotlib.pyplot as plt
import torch

import tsallis as ts

z = torch.tensor([1.0, 0.8, 0.5, 0.2, -0.3, -0.5, -0.8, -1.0])
target = ts.entmax(z, alpha=1.8)

alpha = ts.nn.Alpha(init=1.1)
optimizer = torch.optim.Adam(alpha.parameters(), lr=0.05)
history = []
for _ in range(300):
    optimizer.zero_grad()
    p = ts.entmax(z, alpha=alpha())
    loss = (p - target).square().sum()
    loss.backward()
    optimizer.step()
    history.append((float(alpha().detach()), int((p > 0).sum())))

# %%
# The support shrinks from all eight entries to those of the target on the way.

alphas, sizes = zip(*history, strict=True)
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
left.plot(alphas)
left.axhline(1.8, linestyle=":", color="grey")
left.set(xlabel="step", ylabel="alpha")
right.plot(sizes)
right.axhline(int((target > 0).sum()), linestyle=":", color="grey")
right.set(xlabel="step", ylabel="non-zeros")
fig.tight_layout()
print(f"alpha {alphas[-1]:.3f}, non-zeros {sizes[-1]} of {len(z)}, target {int((target > 0).sum())}")
