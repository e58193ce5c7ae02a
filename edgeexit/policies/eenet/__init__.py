"""EENet's learned scheduler (Ilhan et al. 2024), section 3.2, with its errors corrected.

At exit k a small network looks at the calibrated probabilities ŷ_k, three confidences a_k = (largest
probability, entropy, agreement of the exits so far; eq. 5–7) and b_k, what it said at the exits before:

    s_k = leaky_relu(W^sh_k [ŷ_k, a_k, b_k])                                                  eq. 8
    q̂_k = sigmoid(W^g_k · s_k)      the utility: how likely the exit is right                 eq. 9
    r̂   = softmax over the exits of (W^h_k · s_k)      which exit the sample belongs to       eq. 10

q̂ is the score. r̂ needs every exit, so it serves the fit alone, and is not stored: its mean over the
samples, the exits' shares, is what `edgeexit.thresholds.assignment` (algorithm 1) starts from. With the
targets q and r of eq. 3 and 4, K exits, N samples, costs c and a budget B, what is minimised is

    (1/K) Σ w_nk bce(q̂_nk, q_nk) + α max(0, Σ r̂_nk c_k / (N B) − 1) − β/(N K) Σ r_nk log r̂_nk   eq. 11, 14, 15
    w_nk = (1 − Σ_{j<k} r̂_nj) / Σ_m (1 − Σ_{j<k} r̂_mj), taken as a constant                  eq. 13
    bce(q̂, q) = −q log q̂ − (1 − q) log(1 − q̂)                                                eq. 12

Corrections to the text:

- Eq. 12 has no minus sign: minimised as printed, every utility would be wrong.
- Eq. 13's denominator sums over all samples, but its r̂ carries the sample of the numerator, so that all
  weights would be 1/N. We read the index of the sum.
- Eq. 14 takes |B − cost|, so that spending less is punished as well; asked for is a cost ≤ B. Ours is one-sided.
  What is left of the budget is spent by the thresholds, which tilt the shares.
- Below eq. 15, "r_k is defined in equation 3.2" means eq. 4.
- Algorithm 1 sorts the wrong way round, breaks too early and has two meanings for c: see
  `edgeexit.thresholds.assignment`.

What the published code does and the text does not: it takes the softmax of eq. 10 of a sigmoid, so that
no exit's share can come near 0 or 1 and whole ranges of budgets are out of reach; and it gives the class
scores of one sample to all of its batch. We do neither.

Choices where the text leaves room, or where the other way was worse (ResNet-56 with ten exits, and two
models in a row; CIFAR-10, 5,000 samples to fit on):

- ŷ comes of logits over the exit's temperature; without, accuracy at equal cost was up to 0.2 points lower.
- ŷ is fitted twice, sorted (the largest first) and in the order of the classes, as in the text. The order
  of the classes is kept only where its loss on held-out samples is lower by more than three standard
  errors: it can learn which classes an exit confuses, but with few samples it learns their noise (with ten
  exits, 0.7 points lower). With more than 128 classes ŷ is always sorted, cut to the 10 largest and the sum
  of the others: weights for 1,000 classes would be more than a calibration split can fit.
- D_h = D/2 and α = 0.1 as in the text. β = 0.1 where the text has 10⁻³, which leaves the assignment to
  chance: the thresholds of algorithm 1 were 0.1 to 1.0 points less accurate. L2's weight is 10⁻⁴; with the
  text's 10⁻² accuracy at equal cost was 0.1 to 0.2 points lower.
- The learning rate is 3·10⁻³ where the text has 3·10⁻⁵, so that a fit takes seconds: 16 batches an epoch (of
  at least 128 samples), at most 300 epochs, stopping after 30 (in the text 50) with no smaller loss on the
  held-out fifth.
- At most 20,000 samples are used, drawn by the seed. Without a budget or costs there is no budget loss.
"""

from __future__ import annotations

from edgeexit.policies.eenet.policy import LearnedScheduler

__all__ = ["LearnedScheduler"]
