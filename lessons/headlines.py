"""The claims that say most of each lesson, in the README's table and on the site's cards."""

# the claims whose text matches; where none does, the site takes the first two that are judged
HEADLINES = {
    1: "add node|block's input",
    2: "float64, ReLU: error at 1e-5|float32, ReLU: error at 1e-7",
    3: "log10, plain, no BN, Glorot|log10, plain, BN, He",
    4: "plain, Glorot: log10 of first / last",
    5: r"plain-\d+: .*step [05]$",
    6: "residual: neighbours|plain: neighbours",
    7: "residual: cosine|plain: cosine",
    8: r".*(plain-\d+ − plain|residual-\d+ − residual)-\d+$",
    9: "(plain|residual): accuracy after",
    10: "(init|trained): mean length / the count's",
    11: "gradient, shortcut times|early loss, last gamma 1 less 0$",
    12: "test accuracy, (running statistics|re-estimated)",
    13: "gradient as initialised|training loss|test accuracy",
    14: r"multiplications: the sum's / F\(4x4\)|rounding, 64 channels: F\(4x4\).* / im2col",
    15: "BN: an image's answer|final loss: GN less BN",
    16: "Adam 0.003, BN: first update|final loss, cold less warm: Adam 0.03",
    17: "new classes: accuracy, all free less|weights: change of the last block",
    18: "gradient less one process's: alone, 2 |share of what 16 ranks lose",
}
