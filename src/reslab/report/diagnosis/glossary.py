"""What the words of the page mean, with formulas and where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One entry.

    Args:
        name: the word.
        formula: in symbols; may be empty.
        meaning: in words, with what is usual.
        reference: where it comes from; empty for what is everybody's.
    """

    name: str
    formula: str
    meaning: str
    reference: str = ""


GLOSSARY: tuple[Term, ...] = (
    Term(
        "gradient norm",
        "\u2016\u03b4\u2016 = RMS over samples of \u2016\u2202L/\u2202x\u2016\u2082",
        "Of one sample's loss, by the activations at a block's input: a mean over N samples gives each of them"
        " 1/N of its gradient, which is undone.",
    ),
    Term(
        "shortcut's and branch's part",
        "\u03b4 = S\u2032(x)\u1d40u + B\u2032(x)\u1d40u = \u03b4_S + \u03b4_B,\u2003u = \u2202L/\u2202(S(x) + B(x))",
        "What comes back through each side of a residual addition. Exact, for any shortcut; with an activation"
        " after the addition u is what the activation lets through.",
        "He et al. 2016, arXiv:1603.05027, eq. 5",
    ),
    Term(
        "share",
        "s = \u27e8\u03b4, \u03b4_part\u27e9 / \u2016\u03b4\u2016\u00b2",
        "A part projected on the whole. Shares are signed and add up to 1.",
    ),
    Term(
        "cosine",
        "\u27e8\u03b4_S, \u03b4_B\u27e9 / (\u2016\u03b4_S\u2016 \u2016\u03b4_B\u2016)",
        "Between the two parts. Near 0 they are independent, as at initialisation; near -1 they cancel.",
    ),
    Term(
        "pass-through",
        "\u03c1 = \u2016u\u2016\u00b2 / \u2016\u03b4\u207a\u2016\u00b2",
        "Share of the gradient's energy that the activation after the addition lets through; 1 where there is none.",
    ),
    Term(
        "shortcut gain",
        "\u2016\u03b4_S\u2016 / \u2016u\u2016",
        "By how much the shortcut itself stretches the gradient: 1 for the identity.",
        "He et al. 2016, arXiv:1603.05027, section 3",
    ),
    Term(
        "decade",
        "log\u2081\u2080",
        "A factor of 10. A slope of 0.1 decades per block is a factor of 1.26 per block, and of 10 in 10 blocks.",
    ),
    Term(
        "slope and R\u00b2",
        "log\u2081\u2080\u2016\u03b4\u2016 \u2248 a + b\u00b7block",
        "A straight line through the logarithms, through the half of the blocks that is nearer to the loss, or"
        " through all layers of a network without blocks. R\u00b2 near 1 with a slope far from 0 is exponential"
        " growth or decay; residual networks with norms have curves that get flat towards the loss.",
    ),
    Term(
        "squared channel mean, channel variance",
        "mean over channels of (mean over N, H, W)\u00b2 and of the variance over N, H, W",
        "The signal propagation plot. A pre-activation network with batch norm adds 1 - 1/\u03c0 = 0.68 to the"
        " variance with each block at initialisation.",
        "Brock et al. 2021, arXiv:2101.08692, section 3",
    ),
    Term(
        "layer response",
        "standard deviation of a norm layer's output",
        "Before activation and addition. In trained residual networks it is small, and smaller the deeper they are.",
        "He et al. 2015, arXiv:1512.03385, Figure 7",
    ),
    Term(
        "update over weight",
        "\u2016w_after - w_before\u2016 / \u2016w_before\u2016",
        "Of one step of the optimiser, all included. 10\u207b\u00b3 is usual; far more is a learning rate too"
        " high, far less one too low.",
    ),
    Term(
        "effective depth",
        "\u03a3 k\u00b7e_k,\u2003e_k = \u2016G_k\u2016\u00b2 / \u03a3\u2016G_j\u2016\u00b2",
        "G_k is the gradient through all paths with exactly k branches. Their mean length is how many branches"
        " the gradient goes through.",
        "Veit et al. 2016, arXiv:1605.06431",
    ),
    Term(
        "shattering",
        "cos(\u2207f(a), \u2207f((1 - \u03b5)a + \u03b5b))",
        "How long the gradient at the input keeps its direction on the way from one image to another. In plain"
        " networks that are too deep it is lost at once, even where norms keep its size.",
        "Balduzzi et al. 2017, arXiv:1702.08591",
    ),
    Term(
        "lesion",
        "L without B_i, less L",
        "What the loss gains when one branch is left out; the shortcut stays.",
        "Veit et al. 2016, arXiv:1605.06431, section 4.1",
    ),
    Term(
        "Jacobian's singular values",
        "\u03c3(\u2202output/\u2202input)",
        "How much small changes are stretched, by direction. Around 1 in all directions signals and gradients"
        " keep their size.",
    ),
    Term(
        "basis of a threshold",
        "",
        "Literature: from a paper. Tool: the default of a known tool. Measured: set on networks of which it is"
        " known whether they train. Heuristic: neither, a rule of thumb.",
    ),
    Term(
        "not checked",
        "",
        "A rule that couldn't say, with the reason. It is no clean bill.",
    ),
)
